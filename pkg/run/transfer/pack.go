package transfer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/sys"
)

// PackOptions say how a tree becomes a tar.
type PackOptions struct {
	Name   string // of the first entry; "": the tree's own content without it
	Follow bool   // the path's last name is followed
	// Owner turns the owner of a file into the one in the tar; nil: they are equal.
	Owner func(uid, gid uint32) (int, int)
	// Count, if set, is where the bytes that were written are counted.
	Count *int64
}

// buffer is how much is read or written at once.
const buffer = 1 << 20

// Pack writes what is at p as a tar. Sockets are left out. To a pipe the content
// of files goes by splice: no byte of it passes through this process.
func (r Root) Pack(ctx context.Context, w io.Writer, p string, o PackOptions) error {
	e, err := r.lookup(p, o.Follow)
	if err != nil {
		return err
	}
	defer e.close()
	c := &countWriter{w: w}
	out := bufio.NewWriterSize(c, buffer)
	k := &packer{ctx: ctx, owner: o.Owner, w: tar.NewWriter(out), out: out, to: c, pipe: pipeOf(w), seen: map[inode]string{}, buf: make([]byte, buffer)}
	if o.Name == "" && e.info.IsDir() {
		err = k.children(e.dir, e.name, "")
	} else {
		err = k.entry(e.dir, e.name, o.Name)
	}
	if err == nil {
		err = k.w.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if o.Count != nil {
		*o.Count = c.n
	}
	return err
}

// countWriter counts what is written through it, and beside it.
type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

type inode struct{ dev, ino uint64 }

type packer struct {
	owner func(uid, gid uint32) (int, int)
	ctx   context.Context
	w     *tar.Writer
	out   *bufio.Writer    // what w writes to
	to    *countWriter     // what out writes to
	pipe  *os.File         // what that writes to; nil: no pipe
	seen  map[inode]string // files with several names, and the first of them
	buf   []byte
}

// rawFile is a descriptor that never waits, without what package os does for those
// that may: that is a third of what a small file costs.
type rawFile int

func (f rawFile) Read(p []byte) (int, error) {
	n, err := again(func() (int, error) { return unix.Read(int(f), p) })
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

func (f rawFile) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n, err := again(func() (int, error) { return unix.Write(int(f), p[done:]) })
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// again repeats a system call that a signal interrupted.
func again(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return max(n, 0), err
		}
	}
}

// entry writes name in dir, and what is in it, as full.
func (k *packer) entry(dir int, name, full string) error {
	if k.ctx.Err() != nil {
		return context.Cause(k.ctx)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) && full != "" {
			return nil // removed meanwhile
		}
		return &os.PathError{Op: "stat", Path: full, Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFREG {
		return k.file(dir, name, full)
	}
	h := k.header(&st, full)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return k.dir(dir, name, full, h)
	case unix.S_IFLNK:
		to, err := sys.ReadlinkAt(dir, name)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, to
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	}
	return k.w.WriteHeader(h)
}

func (k *packer) dir(dir int, name, full string, h *tar.Header) error {
	h.Typeflag, h.Name = tar.TypeDir, full+"/"
	fd, err := open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	attributes(fd, h)
	_ = unix.Close(fd) // only read
	if err := k.w.WriteHeader(h); err != nil {
		return err
	}
	return k.children(dir, name, full)
}

// children writes what is in the directory name of dir.
func (k *packer) children(dir int, name, full string) error {
	fd, err := open(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), full)
	defer d.Close()
	list, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range list {
		add := k.entry
		if e.Type().IsRegular() { // most are: one look less
			add = k.file
		}
		if err := add(fd, e.Name(), path.Join(full, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// file writes name in dir, which was a regular file when it was looked at.
func (k *packer) file(dir int, name, full string) error {
	if k.ctx.Err() != nil {
		return context.Cause(k.ctx)
	}
	fd, err := open(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if errors.Is(err, unix.ENOENT) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: full, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // another file took its place
	}
	h := k.header(&st, full)
	if st.Nlink > 1 {
		key := inode{st.Dev, st.Ino}
		if first, ok := k.seen[key]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return k.w.WriteHeader(h)
		}
		k.seen[key] = full
	}
	h.Size = st.Size
	attributes(fd, h)
	if err := k.w.WriteHeader(h); err != nil {
		return err
	}
	return k.content(rawFile(fd), h.Size)
}

// content writes size bytes of f: a file that becomes shorter meanwhile is filled
// up, one that grows is cut.
func (k *packer) content(f rawFile, size int64) error {
	if k.pipe != nil && size >= spliceFrom {
		return k.splice(f, size)
	}
	return fill(k.w, f, size, k.buf)
}

// splice is content by way of the kernel alone.
func (k *packer) splice(f rawFile, size int64) error {
	if err := k.out.Flush(); err != nil {
		return err
	}
	n, err := splice(k.pipe, f, size, true)
	k.to.n += n
	if err == nil && n < size { // shorter by now, or no file system for this
		err = fill(k.out, f, size-n, k.buf)
	}
	if err != nil {
		return err
	}
	k.w = tar.NewWriter(k.out) // the old one knows nothing of the content
	_, err = k.out.Write(make([]byte, (-size)&511))
	return err
}

// fill writes size bytes of f, and zeros for those that are not there.
func fill(w io.Writer, f io.Reader, size int64, buf []byte) error {
	for size > 0 {
		n, err := f.Read(buf[:min(size, int64(len(buf)))])
		if n == 0 || err != nil {
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			n = int(min(size, int64(len(buf))))
			clear(buf[:n])
		}
		if _, err := w.Write(buf[:n]); err != nil {
			return err
		}
		size -= int64(n)
	}
	return nil
}

func open(dir int, name string, flags int) (int, error) {
	fd, err := sys.OpenAt(dir, name, flags, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, nil
}

func (k *packer) header(st *unix.Stat_t, name string) *tar.Header {
	// Whole seconds, as in Docker's tars: a fraction takes two more blocks for each file.
	h := &tar.Header{
		Name: name, Typeflag: tar.TypeReg, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid),
		ModTime: time.Unix(st.Mtim.Sec, 0), Format: tar.FormatPAX,
	}
	if k.owner != nil {
		h.Uid, h.Gid = k.owner(st.Uid, st.Gid)
	}
	return h
}

// attributes adds the extended attributes that a copy keeps, as far as they may be
// read.
func attributes(fd int, h *tar.Header) {
	attrs, _ := sys.Xattrs(fd, kept)
	for name, value := range attrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrPrefix+name] = string(value)
	}
}

const xattrPrefix = "SCHILY.xattr."

// kept says which extended attributes are files' own: not those of overlay, nor
// what belongs to the machine's security.
func kept(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.") && !strings.HasPrefix(name, "user.containers.")
}
