package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/compress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// MaxText is how long a Dockerfile may be, in bytes.
const MaxText = 16 << 20

// Stream is a context that came as one stream: an archive, unpacked into Dir, or
// a Dockerfile, which is Text.
type Stream struct {
	Dir  string
	Text []byte
}

// Stream reads an archive, compressed or not, into a directory that is removed
// when the sources are closed, or, if it is no archive, a Dockerfile.
func (s *Sources) Stream(ctx context.Context, r io.Reader) (*Stream, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	head, err := br.Peek(compress.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	kind := compress.Detect(head)
	z, err := compress.Reader(br)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	text := bufio.NewReaderSize(z, 64<<10)
	head, err = text.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if isTar(head) {
		dir, err := s.Scratch()
		if err != nil {
			return nil, err
		}
		if err := unpack(ctx, dir, text); err != nil {
			return nil, err
		}
		return &Stream{Dir: dir}, nil
	}
	if kind != compress.None {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("the build context is compressed by %s but holds no tar archive", kind))
	}
	data, err := io.ReadAll(io.LimitReader(text, MaxText+1))
	if err != nil {
		return nil, err
	}
	if len(data) > MaxText {
		return nil, TooLarge("Dockerfile")
	}
	return &Stream{Text: data}, nil
}

// TooLarge is BuildKit's refusal of a Dockerfile that is longer than [MaxText].
func TooLarge(name string) error {
	return errs.New(errs.Invalid, fmt.Sprintf("%s exceeds maximum allowed size of %d bytes", name, MaxText))
}

// isTar reports whether b begins with a tar header, by its checksum (POSIX ustar;
// older tars have one too), or is the end of a tar without members.
func isTar(b []byte) bool {
	if len(b) < 512 {
		return false
	}
	b = b[:512]
	if len(bytes.Trim(b, "\x00")) == 0 {
		return true
	}
	field := strings.Trim(string(b[148:156]), " \x00")
	want := 0
	for _, c := range field {
		if c < '0' || c > '7' {
			return false
		}
		want = want*8 + int(c-'0')
	}
	unsigned, signed := 0, 0
	for i, c := range b {
		if i >= 148 && i < 156 {
			c = ' '
		}
		unsigned += int(c)
		signed += int(int8(c))
	}
	return field != "" && (want == unsigned || want == signed)
}

// unpack unpacks a tar into the directory at, and nowhere else: names and links
// are resolved beneath it. Owners are not kept, for a context's files have none,
// and devices are left out.
func unpack(ctx context.Context, at string, r io.Reader) error {
	root, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	u := untar{root: int(root.Fd()), buf: make([]byte, 64<<10)}
	tr := tar.NewReader(r)
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errs.E("read the archive", errs.Invalid, err)
		}
		if err := u.entry(ctx, h, tr); err != nil {
			return errs.E(fmt.Sprintf("unpack %q", h.Name), errs.KindOf(err), err)
		}
	}
	return u.finish()
}

type untar struct {
	root int
	dirs []tar.Header // their modes and times come last
	buf  []byte
}

// in opens a directory beneath the root, following links there, and makes what
// is missing.
func (u *untar) in(dir string) (int, error) {
	if dir == "" {
		dir = "."
	}
	for {
		fd, err := sys.OpenBelow(u.root, dir, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
		if !errors.Is(err, unix.ENOENT) || dir == "." {
			return fd, err
		}
		parent, err := u.in(dot(strings.TrimPrefix(path.Dir("/"+dir), "/")))
		if err != nil {
			return -1, err
		}
		err = unix.Mkdirat(parent, path.Base(dir), 0o755)
		unix.Close(parent)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, err
		}
		if err != nil { // a link to nowhere
			return -1, unix.ENOTDIR
		}
	}
}

func (u *untar) entry(ctx context.Context, h *tar.Header, data io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if name == "" {
		return nil // the root's own
	}
	parent, err := u.in(strings.TrimPrefix(path.Dir("/"+name), "/"))
	if err != nil {
		return err
	}
	defer unix.Close(parent)
	base := path.Base(name)
	if h.Typeflag == tar.TypeDir {
		err := unix.Mkdirat(parent, base, 0o755)
		if errors.Is(err, unix.EEXIST) {
			var st unix.Stat_t
			if err = unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				if err = unix.Unlinkat(parent, base, 0); err == nil {
					err = unix.Mkdirat(parent, base, 0o755)
				}
			}
		}
		u.dirs = append(u.dirs, tar.Header{Name: name, Mode: h.Mode, ModTime: h.ModTime})
		return err
	}
	if err := unix.Unlinkat(parent, base, 0); errors.Is(err, unix.EISDIR) {
		if err := unix.Unlinkat(parent, base, unix.AT_REMOVEDIR); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg, 0, '7': // '7': contiguous, a kind of regular file
		return u.file(ctx, parent, base, h, data)
	case tar.TypeSymlink:
		if err := unix.Symlinkat(h.Linkname, parent, base); err != nil {
			return err
		}
		return utimes(parent, base, h)
	case tar.TypeLink:
		target := strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		from, err := u.in(strings.TrimPrefix(path.Dir("/"+target), "/"))
		if err != nil {
			return err
		}
		defer unix.Close(from)
		return unix.Linkat(from, path.Base(target), parent, base, 0)
	case tar.TypeFifo:
		return unix.Mknodat(parent, base, unix.S_IFIFO|uint32(h.Mode)&0o777, 0)
	}
	return nil
}

func (u *untar) file(ctx context.Context, parent int, base string, h *tar.Header, data io.Reader) error {
	fd, err := sys.CreateAt(parent, base, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), base)
	defer f.Close()
	for {
		n, err := data.Read(u.buf)
		if _, err := f.Write(u.buf[:n]); err != nil {
			return err
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	for key, value := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok && keptXattr(attr) {
			_ = unix.Fsetxattr(fd, attr, []byte(value), 0) // not every file system has them
		}
	}
	if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
		return err
	}
	return utimes(parent, base, h)
}

func utimes(parent int, base string, h *tar.Header) error {
	return sys.SetTimesAt(parent, base, unix.NsecToTimespec(h.ModTime.UnixNano()))
}

// finish sets the directories' modes and times, the last one first.
func (u *untar) finish() error {
	for i := len(u.dirs) - 1; i >= 0; i-- {
		h := &u.dirs[i]
		fd, err := sys.OpenBelow(u.root, h.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			continue // something else has taken its place
		}
		err = errors.Join(unix.Fchmod(fd, uint32(h.Mode)&0o7777), utimes(fd, "", h))
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}
