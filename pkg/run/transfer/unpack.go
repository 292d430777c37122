package transfer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// UnpackOptions say how a tar becomes files.
type UnpackOptions struct {
	// From and To, if set, rename the first name of every entry: From becomes To.
	From, To string
	// Owners gives files the owners in the tar; otherwise they are ours.
	Owners bool
	// Owner turns an owner in the tar into the file's, and 0:0 into that of a file
	// without one; nil: they are equal.
	Owner func(uid, gid uint32) (int, int)
	// Count, if set, is where the bytes that were read are counted.
	Count *int64
}

// Unpack writes a tar's files into the directory dir, which must exist. Links in
// dir itself are followed beneath the root, in what is below it never.
func (r Root) Unpack(ctx context.Context, in io.Reader, dir string, o UnpackOptions) error {
	fd, err := r.open(dir, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	c := &countReader{r: in}
	u := &unpacker{ctx: ctx, top: fd, o: o, buf: make([]byte, buffer), in: c, pipe: pipeOf(in)}
	u.src = bufio.NewReaderSize(c, spliceFrom)
	defer u.leave()
	defer func() {
		if o.Count != nil {
			*o.Count = c.n
		}
	}()
	t := tar.NewReader(u.src)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the tar: %w", err)
		}
		if err := u.entry(h, t); err != nil {
			return err
		}
		if u.passed {
			u.passed, t = false, tar.NewReader(u.src) // the old one knows nothing of the content
		}
	}
	if err := u.times(); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, u.src) // what pads it: whoever writes it is not to fail
	return err
}

// countReader counts what is read through it, and beside it.
type countReader struct {
	r io.Reader
	n int64
}

func (c *countReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

type unpacker struct {
	ctx  context.Context
	top  int
	o    UnpackOptions
	buf  []byte
	in   *countReader
	src  *bufio.Reader // of in
	pipe *os.File      // what in reads; nil: no pipe

	passed bool // the entry's content was read past the tar's reader

	dirs []made // directories, whose times are set last

	at   string // the directory that is open, below top
	open int    // its descriptor; 0: none
}

type made struct {
	name string
	mode uint32
	time time.Time
}

func (u *unpacker) leave() {
	if u.open != 0 {
		_ = unix.Close(u.open) // O_PATH, or only read
		u.open = 0
	}
}

// name is where an entry goes, below the top; "" is the top itself.
func (u *unpacker) name(n string) (string, error) {
	n = path.Clean(strings.TrimLeft(n, "/"))
	if u.o.From != "" {
		if n == u.o.From {
			n = u.o.To
		} else if rest, ok := strings.CutPrefix(n, u.o.From+"/"); ok {
			n = path.Join(u.o.To, rest)
		}
	}
	if n == "." {
		return "", nil
	}
	if !filepath.IsLocal(n) || strings.IndexByte(n, 0) >= 0 {
		return "", errs.New(errs.Invalid, fmt.Sprintf("the tar has a path that leads out of it: %q", n))
	}
	return n, nil
}

// parent opens the directory that name goes into, making what is missing.
func (u *unpacker) parent(name string) (int, error) {
	dir := path.Dir(name)
	if dir == u.at && u.open != 0 {
		return u.open, nil
	}
	u.leave()
	fd, err := unix.FcntlInt(uintptr(u.top), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if dir != "." {
		for part := range strings.SplitSeq(dir, "/") {
			next, err := u.down(fd, part)
			_ = unix.Close(fd) // O_PATH, or only read
			if err != nil {
				return 0, err
			}
			fd = next
		}
	}
	u.at, u.open = dir, fd
	return fd, nil
}

func (u *unpacker) down(fd int, name string) (int, error) {
	next, err := open(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if !errors.Is(err, unix.ENOENT) {
		return next, err
	}
	if err := unix.Mkdirat(fd, name, 0o755); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return open(fd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name, err := u.name(h.Name)
	if err != nil {
		return err
	}
	if name == "" {
		return nil // the top is there, and stays what it is
	}
	dir, err := u.parent(name)
	if err != nil {
		return err
	}
	base := path.Base(name)
	switch h.Typeflag {
	case tar.TypeDir:
		return u.dir(dir, base, name, h)
	case tar.TypeReg, tar.TypeGNUSparse, '\x00':
		return u.file(dir, base, h, content)
	case tar.TypeSymlink:
		err = u.replace(dir, base, func() error { return unix.Symlinkat(h.Linkname, dir, base) })
	case tar.TypeLink:
		return u.link(dir, base, h)
	case tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		err = u.replace(dir, base, func() error { return mknod(dir, base, h) })
		if errors.Is(err, unix.EPERM) && h.Typeflag != tar.TypeFifo {
			return nil // a user namespace has no devices
		}
	case tar.TypeXGlobalHeader:
		return nil
	default:
		return errs.New(errs.Invalid, fmt.Sprintf("the tar has an entry of an unknown kind: %s (%c)", h.Name, h.Typeflag))
	}
	if err != nil {
		return &os.PathError{Op: "make", Path: name, Err: err}
	}
	if err := u.own(dir, base, h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := chmod(dir, base, uint32(h.Mode&0o7777)); err != nil {
			return &os.PathError{Op: "chmod", Path: name, Err: err}
		}
	}
	return setTime(dir, base, h.ModTime)
}

// chmod sets the mode of a special file, which is not opened. It goes by a descriptor, as
// a process in the container may have put a link to a file of the host's in its place.
func chmod(dir int, base string, mode uint32) error {
	fd, err := sys.OpenAt(dir, base, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Chmod(sys.FDPath(fd), mode)
}

func mknod(dir int, name string, h *tar.Header) error {
	kind := map[byte]uint32{tar.TypeFifo: unix.S_IFIFO, tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK}[h.Typeflag]
	return unix.Mknodat(dir, name, kind|uint32(h.Mode&0o7777), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
}

// replace makes something where there may be something else, but no directory.
func (u *unpacker) replace(dir int, name string, do func() error) error {
	err := do()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Unlinkat(dir, name, 0); err != nil {
		if errors.Is(err, unix.EISDIR) {
			return errs.New(errs.Conflict, fmt.Sprintf("cannot overwrite directory %q with non-directory", name))
		}
		return err
	}
	return do()
}

func (u *unpacker) dir(parent int, base, name string, h *tar.Header) error {
	err := unix.Mkdirat(parent, base, 0o700)
	fresh := err == nil
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := open(parent, base, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			return errs.New(errs.Conflict, fmt.Sprintf("cannot overwrite non-directory %q with directory", name))
		}
		return err
	}
	defer unix.Close(fd)
	if u.o.Owners || fresh {
		if err := u.fown(fd, h); err != nil {
			return err
		}
	}
	setAttributes(fd, h)
	mode := uint32(h.Mode & 0o7777)
	if err := unix.Fchmod(fd, mode|0o700); err != nil { // until it is filled
		return &os.PathError{Op: "chmod", Path: name, Err: err}
	}
	u.dirs = append(u.dirs, made{name, mode, h.ModTime})
	return nil
}

func (u *unpacker) file(dir int, base string, h *tar.Header, content io.Reader) error {
	var fd int
	err := u.replace(dir, base, func() (err error) {
		fd, err = sys.CreateAt(dir, base, 0o600)
		return err
	})
	if errors.Is(err, unix.EBUSY) { // something is mounted on it: it is written into
		fd, err = sys.OpenAt(dir, base, unix.O_WRONLY|unix.O_TRUNC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return &os.PathError{Op: "create", Path: h.Name, Err: err}
	}
	return errors.Join(u.fill(rawFile(fd), h, content), unix.Close(fd))
}

// fill gives a new file its content, and then what it has around that.
func (u *unpacker) fill(f rawFile, h *tar.Header, content io.Reader) (err error) {
	if u.pipe != nil && h.Size >= spliceFrom && !sparse(h) {
		u.passed, err = true, u.receive(f, h.Size)
	} else {
		_, err = io.CopyBuffer(f, onlyReader{content}, u.buf)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if _, bare := err.(unix.Errno); bare {
		err = &os.PathError{Op: "write", Path: h.Name, Err: err}
	}
	if err != nil {
		return err
	}
	if err := u.fown(int(f), h); err != nil {
		return err
	}
	setAttributes(int(f), h)
	if err := unix.Fchmod(int(f), uint32(h.Mode&0o7777)); err != nil {
		return &os.PathError{Op: "chmod", Path: h.Name, Err: err}
	}
	if err := setTime(int(f), "", h.ModTime); err != nil {
		return &os.PathError{Op: "utimes", Path: h.Name, Err: err}
	}
	return nil
}

// sparse reports whether an entry's content is not simply its size in bytes.
func sparse(h *tar.Header) bool {
	if h.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for k := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// onlyReader hides WriteTo, which would take a buffer of its own.
type onlyReader struct{ io.Reader }

func (u *unpacker) link(dir int, base string, h *tar.Header) error {
	name, err := u.name(h.Linkname)
	if err != nil || name == "" {
		return errs.New(errs.Invalid, fmt.Sprintf("the tar has a link to what is not in it: %q", h.Linkname))
	}
	// By a descriptor of its own: the one of the current directory stays.
	from := unpacker{ctx: u.ctx, top: u.top}
	defer from.leave()
	fd, err := from.parent(name)
	if err != nil {
		return err
	}
	err = u.replace(dir, base, func() error { return unix.Linkat(fd, path.Base(name), dir, base, 0) })
	if err != nil {
		return &os.PathError{Op: "link", Path: h.Name, Err: err}
	}
	return nil
}

func (u *unpacker) fown(fd int, h *tar.Header) error {
	uid, gid, ok := u.o.owner(h)
	if !ok {
		return nil
	}
	if err := unix.Fchown(fd, uid, gid); err != nil {
		return &os.PathError{Op: "chown", Path: h.Name, Err: err}
	}
	return nil
}

func (u *unpacker) own(dir int, base string, h *tar.Header) error {
	uid, gid, ok := u.o.owner(h)
	if !ok {
		return nil
	}
	if err := unix.Fchownat(dir, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "chown", Path: h.Name, Err: err}
	}
	return nil
}

// owner is who gets the file of h; false: it stays ours.
func (o *UnpackOptions) owner(h *tar.Header) (uid, gid int, ok bool) {
	if o.Owners {
		uid, gid = h.Uid, h.Gid
	}
	if o.Owner != nil {
		uid, gid = o.Owner(uint32(uid), uint32(gid))
	}
	return uid, gid, o.Owners || o.Owner != nil
}

func setAttributes(fd int, h *tar.Header) {
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok && kept(name) {
			_ = unix.Fsetxattr(fd, name, []byte(v), 0) // what this file system, or this user, cannot have is not copied
		}
	}
}

// times gives directories their modes and times, now that they are filled.
func (u *unpacker) times() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		d := u.dirs[i]
		dir, err := u.parent(d.name)
		if err != nil {
			return err
		}
		fd, err := open(dir, path.Base(d.name), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			continue // somebody took it away
		}
		err = unix.Fchmod(fd, d.mode)
		if err == nil {
			err = setTime(fd, "", d.time)
		}
		_ = unix.Close(fd) // only read
		if err != nil {
			return &os.PathError{Op: "chmod", Path: d.name, Err: err}
		}
	}
	return nil
}

func setTime(dir int, base string, t time.Time) error {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return sys.SetTimesAt(dir, base, unix.NsecToTimespec(t.UnixNano()))
}
