// Package transfer copies files into and out of a tree that somebody else may
// change meanwhile: a container's root. Every path is resolved by the kernel
// beneath the root's descriptor, everything below that goes from descriptor to
// descriptor, and no link is followed out of it.
package transfer

import (
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/sys"
)

// Root is a directory that is taken for the root of all paths.
type Root struct{ fd int }

// NewRoot takes the directory f for a root. f stays the caller's, and open.
func NewRoot(f *os.File) Root { return Root{int(f.Fd())} }

// Info is what a path is.
type Info struct {
	Name   string // the last name of the path it is at, links in front resolved
	Mode   uint32 // as stat(2) has it
	Size   int64  // bytes
	MTime  time.Time
	Target string // of a symbolic link
}

// IsDir reports whether it is a directory.
func (i *Info) IsDir() bool { return i.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsLink reports whether it is a symbolic link.
func (i *Info) IsLink() bool { return i.Mode&unix.S_IFMT == unix.S_IFLNK }

// open opens p beneath the root; links lead no further than that.
func (r Root) open(p string, flags int) (int, error) {
	p = strings.TrimLeft(p, "/")
	fd, err := sys.OpenBelow(r.fd, p, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: "/" + p, Err: err}
	}
	return fd, nil
}

// entry is a name in a directory that is held open.
type entry struct {
	dir  int
	name string // "." for the root, and for a path that ends in "." or ".."
	info Info
}

func (e *entry) close() { _ = unix.Close(e.dir) } // O_PATH

// lookup finds what p is. The last name is followed only if follow says so, or
// if p ends in a slash.
func (r Root) lookup(p string, follow bool) (*entry, error) {
	if strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") {
		follow = true
	}
	dir, name := path.Split(path.Clean("/" + p))
	if name == "" {
		name = "."
	}
	for range 40 {
		fd, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		e := &entry{dir: fd, name: name}
		if e.info, err = stat(fd, name); err != nil {
			e.close()
			return nil, err
		}
		if !follow || !e.info.IsLink() {
			return e, nil
		}
		e.close()
		to := e.info.Target
		if !path.IsAbs(to) {
			to = dir + to
		}
		if dir, name = path.Split(clean(to)); name == "" {
			name = "."
		}
		if name == ".." {
			dir, name = dir+"..", "."
		}
	}
	return nil, &os.PathError{Op: "open", Path: p, Err: unix.ELOOP}
}

// clean cuts slashes and dots off a path's end, without looking at "..": what that
// means the kernel says.
func clean(p string) string {
	for {
		switch {
		case p == "/":
			return p
		case strings.HasSuffix(p, "/"):
			p = strings.TrimSuffix(p, "/")
		case strings.HasSuffix(p, "/."):
			p = strings.TrimSuffix(p, ".")
		case p == "":
			return "/"
		default:
			return p
		}
	}
}

func stat(dir int, name string) (Info, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return Info{}, &os.PathError{Op: "stat", Path: name, Err: err}
	}
	i := Info{Name: name, Mode: st.Mode, Size: st.Size, MTime: time.Unix(st.Mtim.Unix())}
	if i.IsLink() {
		to, err := sys.ReadlinkAt(dir, name)
		if err != nil {
			return Info{}, err
		}
		i.Target = to
	}
	return i, nil
}

// Stat says what p is; with follow, what a link at its end leads to.
func (r Root) Stat(p string, follow bool) (Info, error) {
	e, err := r.lookup(p, follow)
	if err != nil {
		return Info{}, err
	}
	defer e.close()
	return e.info, nil
}

// Target is where p leads if there are links at its end: also where the last one
// leads to nothing. As for Docker, what is above a link is taken as it is written.
func (r Root) Target(p string) string {
	for range 40 {
		i, err := r.Stat(p, false)
		if err != nil || !i.IsLink() {
			break
		}
		if !path.IsAbs(i.Target) {
			i.Target = path.Join(path.Dir(path.Clean("/"+p)), i.Target)
		}
		p = i.Target
	}
	return p
}

// Mkdir makes the directory name in dir.
func (r Root) Mkdir(dir, name string) error {
	fd, err := r.open(dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Mkdirat(fd, name, 0o755); err != nil {
		return &os.PathError{Op: "mkdir", Path: name, Err: err}
	}
	return nil
}
