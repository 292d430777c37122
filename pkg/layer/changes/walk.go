// Package changes finds what a directory that was the upper one of an overlay
// changes in the layers below it, and writes that as a layer's tar.
package changes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/sys"
)

// Kind says what happened to a path.
type Kind uint8

// The kinds of changes.
const (
	// Same is a directory, or a file that was opened for writing and left alone:
	// it is as it was below. What is in a directory may have changed.
	Same Kind = iota
	Added
	Modified
	Deleted
)

// Entry is one change.
type Entry struct {
	Path string // "etc/passwd": below the root, without a slash in front
	Kind Kind

	// Stat is what is there, with the owner that counts inside; if Deleted, what was there.
	Stat unix.Stat_t
	Link string // the target of a symbolic link
	// Hard is the Path of an earlier entry that is the same file.
	Hard string
	// Opaque says of a directory that all that it had below is gone.
	Opaque bool
	// Xattrs are the attributes that belong to an image.
	Xattrs map[string][]byte

	at   int // directory that has it
	name string
}

// Open opens the content of a regular file, as long as the function that got the
// entry has not returned.
func (e *Entry) Open() (*os.File, error) { return tree.OpenFile(e.at, e.name) }

// Options say how the directories are to be read.
type Options struct {
	// Expand tells of every name that an opaque directory hides, as Deleted.
	Expand bool
}

// Walk calls f for what upper changes in lower, its layers' directories, top
// first: sorted by the names in each directory, a directory before what is in it.
// The root itself is not told of. Whiteouts over nothing, and sockets, are left out.
func Walk(ctx context.Context, upper string, lower []string, o Options, f func(*Entry) error) error {
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: upper, Err: err}
	}
	defer unix.Close(fd)
	below, err := tree.Open(lower...)
	if err != nil {
		return err
	}
	defer below.Close()
	w := &walker{ctx: ctx, o: o, f: f, inodes: map[inode]string{}}
	root := below.Root()
	if tree.Opaque(fd) {
		root = nil
	}
	return w.dir(fd, "", root)
}

type inode struct{ dev, ino uint64 }

type walker struct {
	ctx    context.Context
	o      Options
	f      func(*Entry) error
	inodes map[inode]string // of files with several names: the first
}

// dir walks the directory fd, the upper's; below is nil if there is nothing below.
func (w *walker) dir(fd int, path string, below *tree.Dir) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	names, err := tree.Readdir(fd)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		full := name
		if path != "" {
			full = path + "/" + name
		}
		if err := w.entry(fd, name, full, below); err != nil {
			return err
		}
	}
	return nil
}

func (w *walker) entry(fd int, name, full string, below *tree.Dir) error {
	e := &Entry{Path: full, Kind: Added, at: fd, name: name}
	if err := unix.Fstatat(fd, name, &e.Stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "stat", Path: full, Err: err}
	}
	var old *tree.Entry
	if below != nil {
		o, err := below.Child(name)
		if err != nil && err != unix.ENOENT {
			return &os.PathError{Op: "stat", Path: full, Err: err}
		}
		if err == nil {
			e.Kind, old = Modified, &o
		}
	}
	gone := tree.Whiteout(&e.Stat)
	if e.Stat.Mode&unix.S_IFMT == unix.S_IFREG && e.Stat.Size == 0 && attrWhiteout(fd, name) {
		gone = true
	}
	if gone {
		if old == nil {
			return nil
		}
		e.Kind, e.Stat = Deleted, old.Stat
		return w.f(e)
	}
	switch e.Stat.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFDIR:
		return w.directory(e, old, below)
	case unix.S_IFLNK:
		var err error
		if e.Link, err = sys.ReadlinkAt(fd, name); err != nil {
			return err
		}
	}
	if err := e.attributes(); err != nil {
		return err
	}
	if old != nil {
		same, err := w.same(e, old)
		if err != nil {
			return err
		}
		if same {
			e.Kind = Same
		}
	}
	if e.Stat.Nlink > 1 && e.Kind != Same {
		id := inode{uint64(e.Stat.Dev), e.Stat.Ino}
		if first, ok := w.inodes[id]; ok {
			e.Hard = first
		} else {
			w.inodes[id] = full
		}
	}
	return w.f(e)
}

func (w *walker) directory(e *Entry, old *tree.Entry, below *tree.Dir) error {
	fd, err := sys.OpenDirAt(e.at, e.name)
	if err != nil {
		return &os.PathError{Op: "open", Path: e.Path, Err: err}
	}
	defer unix.Close(fd)
	if err := e.attributes(); err != nil {
		return err
	}
	var inner *tree.Dir
	if old != nil && old.IsDir() {
		if inner, err = below.Open(e.name); err != nil {
			return &os.PathError{Op: "open", Path: e.Path, Err: err}
		}
		defer inner.Close()
		if e.Opaque = tree.Opaque(fd); !e.Opaque {
			same, err := w.same(e, old)
			if err != nil {
				return err
			}
			if same {
				e.Kind = Same
			}
		}
	}
	if err := w.f(e); err != nil {
		return err
	}
	if e.Opaque {
		if w.o.Expand {
			return w.hidden(fd, e.Path, inner)
		}
		inner = nil
	}
	return w.dir(fd, e.Path, inner)
}

// hidden walks an opaque directory and tells of the names below that are gone.
func (w *walker) hidden(fd int, path string, below *tree.Dir) error {
	old, err := below.Names()
	if err != nil {
		return err
	}
	names, err := tree.Readdir(fd)
	if err != nil {
		return err
	}
	names = append(names, old...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		full := path + "/" + name
		var st unix.Stat_t
		err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && !tree.Whiteout(&st) {
			// What is in it is all new: it is no continuation of what was below.
			if err := w.entry(fd, name, full, nil); err != nil {
				return err
			}
			continue
		}
		o, err := below.Child(name)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			return &os.PathError{Op: "stat", Path: full, Err: err}
		}
		if err := w.f(&Entry{Path: full, Kind: Deleted, Stat: o.Stat}); err != nil {
			return err
		}
	}
	return nil
}

// same reports whether e is what was below. Of a directory the time does not
// count: it changes with what is in it. Of others whole seconds do, as a tar has no
// more: what is below may have been made of one.
func (w *walker) same(e *Entry, old *tree.Entry) (bool, error) {
	was := &Entry{Path: e.Path, Stat: old.Stat, at: old.At, name: old.Name}
	if e.Stat.Mode&unix.S_IFMT != was.Stat.Mode&unix.S_IFMT {
		return false, nil
	}
	if err := was.attributes(); err != nil {
		return false, err
	}
	a, b := &e.Stat, &was.Stat
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Rdev != b.Rdev || !equal(e.Xattrs, was.Xattrs) {
		return false, nil
	}
	switch a.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return true, nil
	case unix.S_IFLNK:
		to, err := old.Readlink()
		return to == e.Link && a.Mtim.Sec == b.Mtim.Sec, err
	case unix.S_IFREG:
		if a.Size != b.Size || a.Mtim.Sec != b.Mtim.Sec {
			return false, nil
		}
		if a.Mtim == b.Mtim && a.Mtim.Nsec != 0 {
			return true, nil
		}
		return sameContent(e, was) // a time of a tar, or one that was set by hand, says nothing
	}
	return a.Mtim.Sec == b.Mtim.Sec, nil
}

func equal(a, b map[string][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || !bytes.Equal(v, w) {
			return false
		}
	}
	return true
}

func sameContent(a, b *Entry) (bool, error) {
	x, err := a.Open()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.Open()
	if err != nil {
		return false, err
	}
	defer y.Close()
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := io.ReadFull(x, p)
		m, err2 := io.ReadFull(y, q)
		if !bytes.Equal(p[:n], q[:m]) {
			return false, nil
		}
		ended := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !ended {
			return false, err
		}
		if err2 != nil && !errors.Is(err2, io.EOF) && !errors.Is(err2, io.ErrUnexpectedEOF) {
			return false, err2
		}
		if ended {
			return true, nil
		}
	}
}

// override is where a store with one id keeps the owner of a file: uid:gid:mode:type.
const override = "user.containers.override_stat"

// attributes reads e's extended attributes and, where the owner is in one of
// them, the owner.
func (e *Entry) attributes() error {
	redirected := false
	attrs, err := sys.XattrsAt(e.at, e.name, func(name string) bool {
		redirected = redirected || name == "trusted.overlay.redirect" || name == "trusted.overlay.metacopy"
		return name == "security.capability" || strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
	})
	if err != nil {
		return &os.PathError{Op: "read the attributes of", Path: e.Path, Err: err}
	}
	if redirected {
		return errs.New(errs.Unsupported, fmt.Sprintf("%q is a directory or a file of an overlay that was mounted with redirect_dir or metacopy", e.Path))
	}
	if value, ok := attrs[override]; ok {
		delete(attrs, override)
		if f := strings.Split(string(value), ":"); len(f) >= 2 {
			uid, err1 := strconv.ParseUint(f[0], 10, 32)
			gid, err2 := strconv.ParseUint(f[1], 10, 32)
			if err1 == nil && err2 == nil {
				e.Stat.Uid, e.Stat.Gid = uint32(uid), uint32(gid)
			}
		}
	}
	e.Xattrs = attrs
	return nil
}

// attrWhiteout reports whether an empty file is a whiteout of the kind that Linux
// 6.7 knows, for overlays whose layers are overlays.
func attrWhiteout(at int, name string) bool {
	path := sys.FDPath(at) + "/" + name
	for _, attr := range []string{"user.overlay.whiteout", "trusted.overlay.whiteout"} {
		if n, err := unix.Lgetxattr(path, attr, nil); err == nil && n >= 0 {
			return true
		}
	}
	return false
}
