package run

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/sys"
)

// view is an image's merged file tree, read from its layers' directories as
// overlay would show it, without a mount: whiteouts, opaque directories, links
// that cross layers. Every step goes through descriptors, so that no link of
// the image leads out of it.
type view struct{ root node }

// node is a directory of the merged tree: the directories that make it, top
// first.
type node []*os.File

// maxLinks is what the kernel follows too: path_resolution(7).
const maxLinks = 40

// openView opens the layers' directories, top first.
func openView(layers []string) (*view, error) {
	v := &view{}
	for _, dir := range layers {
		f, err := os.OpenFile(dir, sysOPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("open layer: %w", err), v.Close())
		}
		v.root = append(v.root, f)
		if opaque(f) { // a layer may hide all that is below it
			break
		}
	}
	return v, nil
}

const sysOPath = 0x200000 // O_PATH, the same on every architecture of Go's linux

// Close closes the layers.
func (v *view) Close() error { return v.root.close() }

func (n node) close() error {
	var errs []error
	for _, f := range n {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// entry is what a name is in the merged tree.
type entry struct {
	dir  node     // if it is a directory
	leaf *os.File // if it is anything else, O_PATH
	in   *os.File // the layer's directory that leaf is in; not owned
	stat syscall.Stat_t
}

func (e entry) close() error {
	if e.leaf != nil {
		return e.leaf.Close()
	}
	return e.dir.close()
}

// child finds name in n.
func (n node) child(name string) (entry, error) {
	var e entry
	for _, layer := range n {
		f, err := sys.OpenPath(layer, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return entry{}, errors.Join(err, e.dir.close())
		}
		var st syscall.Stat_t
		if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
			return entry{}, errors.Join(err, f.Close(), e.dir.close())
		}
		isDir := st.Mode&syscall.S_IFMT == syscall.S_IFDIR
		if !isDir && e.dir != nil || whiteout(&st) {
			_ = f.Close()
			break // whatever it is, it ends the merge
		}
		if !isDir {
			return entry{leaf: f, in: layer, stat: st}, nil
		}
		if e.dir == nil {
			e.stat = st
		}
		e.dir = append(e.dir, f)
		if opaque(f) {
			break
		}
	}
	if e.dir == nil {
		return entry{}, &fs.PathError{Op: "lookup", Path: name, Err: fs.ErrNotExist}
	}
	return e, nil
}

func whiteout(st *syscall.Stat_t) bool {
	return st.Mode&syscall.S_IFMT == syscall.S_IFCHR && st.Rdev == 0
}

// opaque reads both names of the attribute: with "user." it is a store made
// without privileges. A layer whose mark we may not read is one that the kernel
// would not honour for us either.
func opaque(f *os.File) bool {
	return string(sys.Xattr(f, "trusted.overlay.opaque")) == "y" || string(sys.Xattr(f, "user.overlay.opaque")) == "y"
}

// lookup resolves p in the merged tree, following links inside it. The entry is
// the caller's to close.
func (v *view) lookup(p string) (entry, error) {
	w := walk{view: v}
	defer w.close()
	e, err := w.resolve(p)
	if err != nil {
		return entry{}, fmt.Errorf("%s in the image: %w", p, err)
	}
	return e, nil
}

// walk is one resolution: the directories from the root to where it is.
type walk struct {
	view  *view
	stack []node // below the root; owned
	links int
}

func (w *walk) close() {
	for _, n := range w.stack {
		_ = n.close() // read only
	}
}

func (w *walk) here() node {
	if len(w.stack) == 0 {
		return w.view.root
	}
	return w.stack[len(w.stack)-1]
}

func (w *walk) up() {
	if n := len(w.stack); n > 0 { // ".." of the root is the root
		_ = w.stack[n-1].close()
		w.stack = w.stack[:n-1]
	}
}

func (w *walk) resolve(p string) (entry, error) {
	rest := split(p)
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			w.up()
			continue
		}
		e, err := w.here().child(name)
		if err != nil {
			return entry{}, err
		}
		switch {
		case e.dir != nil:
			w.stack = append(w.stack, e.dir)
			if len(rest) == 0 {
				return w.take(e), nil
			}
		case e.stat.Mode&syscall.S_IFMT == syscall.S_IFLNK:
			target, err := sys.ReadLink(e.leaf)
			_ = e.close()
			if err != nil {
				return entry{}, err
			}
			if w.links++; w.links > maxLinks {
				return entry{}, syscall.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				w.close()
				w.stack = nil
			}
			rest = slices.Concat(split(target), rest)
		case len(rest) > 0:
			_ = e.close()
			return entry{}, syscall.ENOTDIR
		default:
			return e, nil
		}
	}
	return w.directory()
}

// take hands the topmost directory over to the caller.
func (w *walk) take(e entry) entry {
	w.stack = w.stack[:len(w.stack)-1]
	return e
}

// directory returns where a path ended that ends in "..", "." or "/", with
// descriptors of its own.
func (w *walk) directory() (entry, error) {
	var e entry
	for _, f := range w.here() {
		dup, err := sys.OpenAt(f, ".", sysOPath|syscall.O_DIRECTORY)
		if err != nil {
			return entry{}, errors.Join(err, e.dir.close())
		}
		e.dir = append(e.dir, dup)
	}
	if len(e.dir) == 0 {
		return entry{}, fs.ErrNotExist // an image without layers
	}
	return e, syscall.Fstat(int(e.dir[0].Fd()), &e.stat)
}

// split cuts a path into its names, without empty ones and ".".
func split(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" || s == "." })
}

// readFile returns the content of the regular file p, nil if there is none. A
// file longer than limit is an error: a parser would take forever.
func (v *view) readFile(p string, limit int64) ([]byte, error) {
	e, err := v.lookup(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer e.close()
	if e.leaf == nil || e.stat.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return nil, fmt.Errorf("%s in the image is not a regular file", p)
	}
	if e.stat.Size > limit {
		return nil, fmt.Errorf("%s in the image has %d bytes; %d is the limit", p, e.stat.Size, limit)
	}
	// Through /proc the same inode is opened that was looked at.
	f, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", e.leaf.Fd()))
	if err != nil {
		return nil, fmt.Errorf("%s in the image: %w", p, errors.Unwrap(err))
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// names returns the names in a merged directory, sorted.
func (n node) names() ([]string, error) {
	seen := map[string]bool{}
	var names []string
	for _, layer := range n {
		d, err := sys.OpenAt(layer, ".", syscall.O_RDONLY|syscall.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		list, err := d.Readdirnames(-1)
		_ = d.Close()
		if err != nil {
			return nil, err
		}
		for _, name := range list {
			if seen[name] {
				continue
			}
			seen[name] = true
			names = append(names, name)
		}
	}
	live := names[:0]
	for _, name := range names { // a whiteout is a name too
		e, err := n.child(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_ = e.close()
		live = append(live, name)
	}
	slices.Sort(live)
	return live, nil
}

// clean is p as an absolute path without "..".
func clean(p string) string { return path.Clean("/" + p) }
