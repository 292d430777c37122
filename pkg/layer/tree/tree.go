// Package tree reads layers' directories as the one tree that overlay would show
// of them, without a mount: whiteouts, opaque directories, links that cross
// layers. Every step goes through descriptors and follows nothing by itself, so
// that no link of an image leads out of it.
package tree

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/sys"
)

// maxLinks is what the kernel follows, too: path_resolution(7).
const maxLinks = 40

// Tree is the merged tree of some directories.
type Tree struct{ root *Dir }

// Dir is a directory of a tree: the directories that make it, top first.
type Dir struct{ layers []int } // O_PATH descriptors

// Entry is what a name is in a directory.
type Entry struct {
	Name string
	Stat unix.Stat_t
	At   int // descriptor of the directory that holds it, which stays its Dir's
}

// IsDir reports whether the entry is a directory.
func (e *Entry) IsDir() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsLink reports whether the entry is a symbolic link.
func (e *Entry) IsLink() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// IsRegular reports whether the entry is a regular file.
func (e *Entry) IsRegular() bool { return e.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// Open opens layers' directories, top first. No directory at all is an empty tree.
func Open(dirs ...string) (*Tree, error) {
	t := &Tree{root: &Dir{}}
	for _, dir := range dirs {
		fd, err := sys.OpenAt(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Close()
			return nil, fmt.Errorf("open layer: %w", &os.PathError{Op: "open", Path: dir, Err: err})
		}
		t.root.layers = append(t.root.layers, fd)
		if Opaque(fd) { // a layer may hide all that is below it
			break
		}
	}
	return t, nil
}

// Close closes the layers.
func (t *Tree) Close() { t.root.Close() }

// Root is the tree's root, which is not to be closed by itself.
func (t *Tree) Root() *Dir { return t.root }

// Close closes the directory's descriptors.
func (d *Dir) Close() {
	for _, fd := range d.layers {
		_ = unix.Close(fd) // O_PATH
	}
	d.layers = nil
}

// Empty reports whether no layer has the directory: only a tree without layers
// has such a root.
func (d *Dir) Empty() bool { return len(d.layers) == 0 }

// FD is a descriptor of the uppermost of the directories that make this one.
func (d *Dir) FD() int { return d.layers[0] }

// Stat returns the directory's own attributes.
func (d *Dir) Stat() (st unix.Stat_t, err error) {
	if d.Empty() {
		return st, unix.ENOENT
	}
	err = unix.Fstat(d.layers[0], &st)
	return st, err
}

// Whiteout reports whether an entry of a layer says that the name is gone.
func Whiteout(st *unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 }

// Opaque reports whether the directory hides what is below it. With "user." it is
// in a store made without privileges; a mark that we may not read is one that the
// kernel would not honour for us either.
func Opaque(fd int) bool {
	name := sys.FDPath(fd) // fgetxattr refuses O_PATH
	var b [4]byte
	for _, attr := range []string{"user.overlay.opaque", "trusted.overlay.opaque"} {
		if n, err := unix.Getxattr(name, attr, b[:]); err == nil && n == 1 && b[0] == 'y' {
			return true
		}
	}
	return false
}

// Child returns what name is. It fails with [unix.ENOENT].
func (d *Dir) Child(name string) (Entry, error) {
	e := Entry{Name: name}
	for _, layer := range d.layers {
		err := unix.Fstatat(layer, name, &e.Stat, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			continue
		}
		if err == nil && Whiteout(&e.Stat) {
			break
		}
		e.At = layer
		return e, err
	}
	return e, unix.ENOENT
}

// Open returns the directory name of d; the caller closes it.
func (d *Dir) Open(name string) (*Dir, error) {
	c := &Dir{}
	for _, layer := range d.layers {
		fd, err := sys.OpenAt(layer, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT {
			continue
		}
		var st unix.Stat_t
		if err == nil {
			if err = unix.Fstat(fd, &st); err != nil {
				_ = unix.Close(fd)
			}
		}
		if err != nil {
			c.Close()
			return nil, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR { // whatever it is, it ends the merge
			_ = unix.Close(fd)
			if c.Empty() && !Whiteout(&st) {
				return nil, unix.ENOTDIR
			}
			break
		}
		c.layers = append(c.layers, fd)
		if Opaque(fd) {
			break
		}
	}
	if c.Empty() {
		return nil, unix.ENOENT
	}
	return c, nil
}

// dup returns the same directory with descriptors of its own.
func (d *Dir) dup() (*Dir, error) {
	c := &Dir{}
	for _, fd := range d.layers {
		n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			c.Close()
			return nil, err
		}
		c.layers = append(c.layers, n)
	}
	return c, nil
}

// Names returns the names in the directory, sorted.
func (d *Dir) Names() ([]string, error) {
	var names []string
	for _, layer := range d.layers {
		list, err := Readdir(layer)
		if err != nil {
			return nil, err
		}
		names = append(names, list...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	var failed error
	names = slices.DeleteFunc(names, func(name string) bool { // a whiteout is a name, too
		_, err := d.Child(name)
		if err != nil && err != unix.ENOENT {
			failed = err
		}
		return err != nil
	})
	return names, failed
}

// Readdir returns the names in the directory fd, which may be opened with O_PATH.
func Readdir(fd int) ([]string, error) {
	n, err := sys.OpenDirAt(fd, ".")
	if err != nil {
		return nil, &os.PathError{Op: "open directory", Path: ".", Err: err}
	}
	f := os.NewFile(uintptr(n), "directory")
	defer f.Close()
	return f.Readdirnames(-1)
}

// Readlink returns the target of the link e.
func (e *Entry) Readlink() (string, error) { return sys.ReadlinkAt(e.At, e.Name) }

// Found is where a path ended.
type Found struct {
	// Path is the path without links, from "/"; with Missing, what there is of it.
	Path string
	// Missing are the names that do not exist, which come after Path.
	Missing []string
	// Entry is what is at Path; of the root only Stat is set.
	Entry Entry
	// Parent is the directory that Entry is in, and nil for the root; Dir is what
	// is at Path, if that is a directory. Both go with Close.
	Parent, Dir *Dir
}

// Close closes what was found.
func (f *Found) Close() {
	for _, d := range []*Dir{f.Parent, f.Dir} {
		if d != nil {
			d.Close()
		}
	}
}

// Exists reports whether the whole path is there.
func (f *Found) Exists() bool { return len(f.Missing) == 0 }

// Full is the path with what is missing of it.
func (f *Found) Full() string { return path.Join(append([]string{f.Path}, f.Missing...)...) }

// Walk resolves p below the root as a process with that root would, following
// links, also the last if followLast. A path of which the end is missing is no
// error; one that goes through a file is [unix.ENOTDIR]. The result is closed by
// the caller.
func (t *Tree) Walk(p string, followLast bool) (*Found, error) {
	f, err := t.walk(p, followLast)
	if err != nil {
		return nil, &os.PathError{Op: "look up", Path: p, Err: err}
	}
	return f, nil
}

type step struct {
	name string
	dir  *Dir
}

func (t *Tree) walk(p string, followLast bool) (*Found, error) {
	var stack []step // below the root
	defer func() {
		for _, s := range stack {
			s.dir.Close()
		}
	}()
	here := func() *Dir {
		if len(stack) == 0 {
			return t.root
		}
		return stack[len(stack)-1].dir
	}
	pop := func() {
		if n := len(stack); n > 0 { // ".." of the root is the root
			stack[n-1].dir.Close()
			stack = stack[:n-1]
		}
	}
	at := func() string {
		var b strings.Builder
		for _, s := range stack {
			b.WriteString("/" + s.name)
		}
		if b.Len() == 0 {
			return "/"
		}
		return b.String()
	}
	done := func(missing []string) (*Found, error) {
		f := &Found{Path: at(), Missing: missing}
		var err error
		if f.Dir, err = here().dup(); err != nil {
			return nil, err
		}
		if n := len(stack); n > 0 {
			f.Entry.Name = stack[n-1].name
			up := t.root
			if n > 1 {
				up = stack[n-2].dir
			}
			if f.Parent, err = up.dup(); err == nil {
				f.Entry, err = f.Parent.Child(stack[n-1].name)
			}
		} else if !t.root.Empty() {
			f.Entry.Stat, err = t.root.Stat()
		}
		if err != nil {
			f.Close()
			return nil, err
		}
		return f, nil
	}
	slash := strings.HasSuffix(p, "/")
	rest := split(p)
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			pop()
			continue
		}
		e, err := here().Child(name)
		if err == unix.ENOENT {
			missing := split(path.Clean("/" + strings.Join(append([]string{name}, rest...), "/")))
			return done(missing)
		}
		if err != nil {
			return nil, err
		}
		switch {
		case e.IsDir():
			d, err := here().Open(name)
			if err != nil {
				return nil, err
			}
			stack = append(stack, step{name, d})
		case e.IsLink() && (len(rest) > 0 || followLast || slash):
			target, err := e.Readlink()
			if err != nil {
				return nil, err
			}
			if links++; links > maxLinks {
				return nil, unix.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				for len(stack) > 0 {
					pop()
				}
			}
			rest = slices.Concat(split(target), rest)
		case len(rest) > 0:
			return nil, unix.ENOTDIR
		default:
			f := &Found{Path: path.Join(at(), name)}
			if f.Parent, err = here().dup(); err != nil {
				return nil, err
			}
			if f.Entry, err = f.Parent.Child(name); err != nil {
				f.Close()
				return nil, err
			}
			return f, nil
		}
	}
	return done(nil)
}

// split cuts a path into its names, without empty ones and ".".
func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// OpenFile opens the regular file that e is for reading. Another kind of file,
// which could block or do something when opened, is an error.
func (e *Entry) OpenFile() (*os.File, error) { return OpenFile(e.At, e.Name) }

// OpenFile opens the regular file name of the directory at for reading.
func OpenFile(at int, name string) (*os.File, error) {
	fd, err := sys.OpenAt(at, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, &os.PathError{Op: "open", Path: name, Err: errors.New("not a regular file")}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadFile returns the content of the regular file p, following links; nil if
// there is none. A file longer than limit bytes is an error.
func (t *Tree) ReadFile(p string, limit int64) ([]byte, error) {
	f, err := t.Walk(p, true)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !f.Exists() {
		return nil, nil
	}
	file, err := f.Entry.OpenFile()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", p, limit)
	}
	return b, err
}
