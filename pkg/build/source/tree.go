// Package source is where a build's files come from: directories that are read
// in place, through an index that makes an unchanged one a walk of stat calls;
// archives, git repositories and URLs, which become such directories; secrets and
// ssh agents.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/build/ignore"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// TreeOptions say how a directory is read.
type TreeOptions struct {
	// Ignore says what is not there for anybody; nil: everything is.
	Ignore *ignore.Matcher
	// IndexDir is where what is known of files is kept from build to build; empty:
	// nowhere. It is made if need be.
	IndexDir string
}

// Tree is a directory to copy from. Every path is resolved beneath it, symbolic
// links included, so that nothing outside is ever read. It may be used by several
// goroutines.
type Tree struct {
	root *os.File
	o    TreeOptions

	mu    sync.Mutex // of the index's records
	once  sync.Once
	index *index // of known; nil until something is walked or hashed
}

// OpenTree opens dir. The caller closes the tree, which also writes its index.
func OpenTree(dir string, o TreeOptions) (*Tree, error) {
	root, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &Tree{root: root, o: o}, nil
}

// Root is the directory, opened with O_PATH. It stays the tree's.
func (t *Tree) Root() *os.File { return t.root }

// Ignore says what is not there; nil if everything is.
func (t *Tree) Ignore() *ignore.Matcher { return t.o.Ignore }

// Close writes the index, if it has news, and closes the directory.
func (t *Tree) Close() error {
	t.once.Do(func() {}) // whoever reads it now ends first
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.index != nil {
		t.index.save()
		t.index = nil
	}
	return t.root.Close()
}

// known is what earlier builds know of the tree's files.
func (t *Tree) known() *index {
	t.once.Do(func() { t.index = openIndex(t.root, t.o.IndexDir) })
	return t.index
}

// Query names files, as COPY does.
type Query struct {
	// Path is absolute or relative to the root; ".." stops there. It may have
	// wildcards: Go's path.Match in each component, and "**" for any number of
	// components if Parents is set.
	Path string
	// Literal says that Path has no wildcards, whatever its letters.
	Literal bool
	// Parents keeps the path, from its "/./" on, as the match's name.
	Parents bool
	// Exclude are patterns as in an ignore file, relative to each match that is a
	// directory, to where the match is otherwise.
	Exclude []string
}

// Match is a file or a directory that a query names.
type Match struct {
	// Path is where it is, relative to the root and without symbolic links; "." is
	// the root.
	Path string
	// Name is what the query calls it: the last component, or with Query.Parents
	// all that is to be kept. It is "." for the root.
	Name string
	// Entries are it, first, and what is in it, in the order of their names,
	// directories before what they hold.
	Entries []Entry
	// Parents, of a query that keeps them, are the directories of Name, the first
	// one first; their Rel is the name that they have in the copy.
	Parents []Entry
}

// IsDir reports whether the match is a directory.
func (m *Match) IsDir() bool { return m.Entries[0].IsDir() }

// Entry is one file, as it was when it was looked at.
type Entry struct {
	Rel   string // below the match; "" is the match itself
	Mode  uint32 // st_mode: type and permissions
	UID   uint32
	GID   uint32
	Nlink uint32
	Size  int64
	Dev   uint64
	Ino   uint64
	Rdev  uint64 // of a device
	Mtime unix.Timespec
	Ctime unix.Timespec

	// Link is a symbolic link's target; set by [Tree.Sum].
	Link string

	sum  [32]byte // of the contents, or of Link, and of the attributes
	done bool     // sum is set
}

// Type is the S_IFMT part of the mode.
func (e *Entry) Type() uint32 { return e.Mode & unix.S_IFMT }

// IsDir reports whether e is a directory.
func (e *Entry) IsDir() bool { return e.Type() == unix.S_IFDIR }

// IsRegular reports whether e is a plain file.
func (e *Entry) IsRegular() bool { return e.Type() == unix.S_IFREG }

// Modified is the time of the last change of the contents.
func (e *Entry) Modified() time.Time { return time.Unix(e.Mtime.Unix()) }

// Find returns what q names, with all that is below it. A path without wildcards
// that is not there is an error of kind NotFound, one with them only names
// nothing. Sockets are never there.
func (t *Tree) Find(ctx context.Context, q Query) ([]Match, error) {
	exclude, err := ignore.New(q.Exclude)
	if err != nil {
		return nil, err
	}
	name, pivot := cleanQuery(q.Path, q.Parents)
	w := walker{t: t, ctx: ctx, exclude: exclude}
	if q.Literal || !strings.ContainsAny(name, `*?[\`) {
		real, err := t.Resolve(name)
		if err == nil {
			var m *Match
			m, err = w.match(real, name, pivot, q.Parents)
			if err == nil && m == nil {
				if exclude != nil && exclude.Ignored(path.Base(name)) {
					return nil, nil
				}
				err = notFound(q.Path)
			}
			if err == nil {
				return []Match{*m}, nil
			}
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			err = notFound(q.Path)
		}
		return nil, err
	}
	return w.glob(name, pivot, q.Parents)
}

// notFound is Docker's text for a path that is not there, or not to be seen.
func notFound(p string) error {
	return errs.New(errs.NotFound, fmt.Sprintf("%q: not found", "/"+strings.TrimPrefix(path.Clean("/"+p), "/")))
}

// cleanQuery makes a path relative to the root. pivot is how much of it is
// before a "/./".
func cleanQuery(p string, parents bool) (name string, pivot int) {
	if parents {
		if before, after, ok := strings.Cut("/"+p, "/./"); ok {
			head := strings.TrimPrefix(path.Clean("/"+before), "/")
			name = strings.TrimPrefix(path.Clean("/"+head+"/"+path.Clean("/"+after)), "/")
			return name, len(head)
		}
	}
	name = strings.TrimPrefix(path.Clean("/"+p), "/")
	return name, 0
}

// below opens what name is beneath the root, without following a link anywhere.
func (t *Tree) below(name string, flags int) (int, error) {
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS
	fd, err := sys.OpenBelow(int(t.root.Fd()), name, flags|unix.O_NOFOLLOW, resolve)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path.Join(t.root.Name(), name), Err: err}
	}
	return fd, nil
}

// maxLinks is Linux's own bound.
const maxLinks = 40

// Resolve returns where name is when its symbolic links, the last one too, are
// followed as if the tree were the whole file system: relative to the root,
// "" being the root itself.
func (t *Tree) Resolve(name string) (string, error) {
	rest := splitPath(name)
	real := ""
	for links := 0; len(rest) > 0; {
		c := rest[0]
		rest = rest[1:]
		if c == ".." {
			real = strings.TrimPrefix(path.Dir("/"+real), "/")
			continue
		}
		next := path.Join(real, c)
		fd, err := t.below(next, unix.O_PATH)
		if err != nil {
			return "", err
		}
		target, isLink, err := readLink(fd)
		unix.Close(fd)
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: next, Err: err}
		}
		if !isLink {
			real = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "open", Path: name, Err: unix.ELOOP}
		}
		if strings.HasPrefix(target, "/") {
			real = ""
		}
		rest = append(splitPath(target), rest...)
	}
	return real, nil
}

func splitPath(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(c string) bool { return c == "" || c == "." })
}

// readLink reads the link that fd, opened with O_PATH, is.
func readLink(fd int) (target string, isLink bool, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return "", false, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", false, nil
	}
	target, err = sys.ReadlinkAt(fd, "")
	return target, true, err
}

// Open opens a file of a match for reading, and fails if it is not the one that
// was looked at.
func (t *Tree) Open(m *Match, e *Entry) (*os.File, error) {
	name := path.Join(m.Path, e.Rel)
	fd, err := t.below(name, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, gone(name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if err := t.Same(f, e); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// OpenFile opens a plain file beneath the root for reading, through links that
// stay there.
func (t *Tree) OpenFile(name string) (*os.File, error) {
	real, err := t.Resolve(name)
	if err != nil {
		return nil, err
	}
	fd, err := t.below(real, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = errs.New(errs.Invalid, name+" is not a file")
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Same fails if f is not as e says, or not any longer: asked again after
// reading, it tells whether what was read is one state of the file.
func (t *Tree) Same(f *os.File, e *Entry) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	if st.Ino != e.Ino || st.Size != e.Size || st.Mtim != e.Mtime || st.Mode != e.Mode {
		return changed(f.Name())
	}
	return nil
}

// errChanged is in the error about a file that does not hold still.
var errChanged = errors.New("it changed while it was read")

func changed(name string) error {
	return errs.WithHint(errs.E("file "+name+" of the build context", errs.Conflict, errChanged),
		"Leave the files alone while the build reads them, or keep what changes out with .dockerignore.")
}

// gone makes err, of a file that was looked at before, say that it changed if it is not
// there any more or is a link now.
func gone(name string, err error) error {
	for _, e := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP} {
		if errors.Is(err, e) {
			return changed(name)
		}
	}
	return err
}

// Dir opens a directory of the tree, "" being the root, with O_PATH.
func (t *Tree) Dir(name string) (*os.File, error) {
	fd, err := t.below(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
