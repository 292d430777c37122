package source

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/build/ignore"
	"cais.dev/cais/pkg/sys"
)

// walker looks at what is below a match.
type walker struct {
	t       *Tree
	ctx     context.Context
	exclude *ignore.Matcher
	out     []Entry

	skip  int    // how much of a path is the match's own
	below string // what exclusions call the match
}

// add doubles what is full: append would copy and clear five times the memory that
// twenty thousand entries take.
func (w *walker) add(e Entry) {
	if len(w.out) == cap(w.out) {
		w.out = slices.Grow(w.out, max(16, len(w.out)))
	}
	w.out = append(w.out, e)
}

// match looks at one file or directory; nil if it is left out. name is what it
// was called, and real where that is.
func (w *walker) match(real, name string, pivot int, parents bool) (*Match, error) {
	e, err := w.t.stat(real)
	if err != nil {
		return nil, err
	}
	m := &Match{Path: dot(real), Name: path.Base(name)} // Base of "" is "."
	hidden, state := w.t.o.Ignore.Below(real)
	if e.Type() == unix.S_IFSOCK || hidden && (!e.IsDir() || !w.t.o.Ignore.MayReturn(real)) {
		return nil, nil
	}
	below := ""
	if parents {
		m.Name = dot(strings.TrimPrefix(name[pivot:], "/"))
		if m.Name != "." {
			below = m.Name
		}
		if m.Parents, err = w.parents(name, pivot); err != nil {
			return nil, err
		}
	} else if !e.IsDir() {
		below = path.Base(name)
	}
	out, exState := w.exclude.Below(below)
	if out && (!e.IsDir() || !w.exclude.MayReturn(below)) {
		return nil, nil
	}
	w.out = []Entry{*e}
	if e.IsDir() {
		fd, err := w.t.below(real, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return nil, err
		}
		w.skip, w.below = len(real)+1, below
		if real == "" {
			w.skip = 0
		}
		go w.t.known() // read beside the walk
		if err := w.dir(os.NewFile(uintptr(fd), real), real, state, exState); err != nil {
			return nil, err
		}
		if (hidden || out) && len(w.out) == 1 {
			return nil, nil // nothing in it is taken back
		}
	}
	m.Entries, w.out = w.out, nil
	return m, nil
}

func dot(s string) string {
	if s == "" {
		return "."
	}
	return s
}

// parents looks at the directories of name behind pivot, through their links.
func (w *walker) parents(name string, pivot int) ([]Entry, error) {
	var out []Entry
	dir := path.Dir(name)
	for i := pivot + 1; dir != "." && i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		real, err := w.t.Resolve(dir[:i])
		if err != nil {
			return nil, err
		}
		e, err := w.t.stat(real)
		if err != nil {
			return nil, err
		}
		e.Rel = strings.TrimPrefix(dir[pivot:i], "/")
		if e.Rel != "" {
			out = append(out, *e)
		}
	}
	return out, nil
}

func (t *Tree) stat(real string) (*Entry, error) {
	fd, err := t.below(real, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: real, Err: err}
	}
	e := entryOf(&st)
	return &e, nil
}

func entryOf(st *unix.Stat_t) Entry {
	return Entry{
		Mode: st.Mode, UID: st.Uid, GID: st.Gid, Nlink: uint32(st.Nlink), Size: st.Size, Dev: st.Dev, Ino: st.Ino, Rdev: st.Rdev,
		Mtime: st.Mtim, Ctime: st.Ctim,
	}
}

// dir adds what is in f, which it closes. real is where f is in the tree.
func (w *walker) dir(f *os.File, real string, state, exState ignore.State) error {
	defer f.Close()
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if err := w.child(f, n, join(real, n), state, exState); err != nil {
			return err
		}
	}
	return nil
}

func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

func (w *walker) child(dir *os.File, name, real string, state, exState ignore.State) error {
	rel := real[w.skip:]
	below := rel
	if w.below != "" {
		below = join(w.below, rel)
	}
	hidden, s := w.t.o.Ignore.Match(real, state)
	if hidden && !w.t.o.Ignore.MayReturn(real) {
		return nil
	}
	out, ex := w.exclude.Match(below, exState)
	if out && !w.exclude.MayReturn(below) {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil // it was there a moment ago
		}
		return &fs.PathError{Op: "stat", Path: real, Err: err}
	}
	e := entryOf(&st)
	e.Rel = rel
	if !e.IsDir() {
		if !hidden && !out && e.Type() != unix.S_IFSOCK {
			w.add(e)
		}
		return nil
	}
	before := len(w.out)
	w.add(e)
	fd, err := sys.OpenDirAt(int(dir.Fd()), name)
	if err != nil {
		return &fs.PathError{Op: "open", Path: real, Err: err}
	}
	if err := w.dir(os.NewFile(uintptr(fd), real), real, s, ex); err != nil {
		return err
	}
	if (hidden || out) && len(w.out) == before+1 {
		w.out = w.out[:before] // nothing in it is taken back
	}
	return nil
}

// glob returns what a path with wildcards names, in order. Links before the
// first wildcard are followed, and a last component that is one.
func (w *walker) glob(name string, pivot int, parents bool) ([]Match, error) {
	comps := strings.Split(name, "/")
	fixed := slices.IndexFunc(comps, func(c string) bool { return strings.ContainsAny(c, `*?[\`) })
	for _, c := range comps {
		if _, err := path.Match(c, ""); err != nil {
			return nil, err
		}
	}
	start := strings.Join(comps[:fixed], "/")
	real, err := w.t.Resolve(start)
	if err != nil {
		if isAbsent(err) {
			return nil, nil
		}
		return nil, err
	}
	var found []string // as the query calls them
	if err := w.expand(real, start, comps[fixed:], parents, &found); err != nil {
		return nil, err
	}
	slices.Sort(found)
	found = slices.Compact(found)
	var out []Match
	for _, n := range found {
		at, err := w.t.Resolve(n)
		if isAbsent(err) {
			continue // a link to nowhere
		}
		if err != nil {
			return nil, err
		}
		m, err := w.match(at, n, pivot, parents)
		if err != nil {
			return nil, err
		}
		if m != nil {
			out = append(out, *m)
		}
	}
	return out, nil
}

func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

// expand adds what comps name below the directory real, which is called name.
func (w *walker) expand(real, name string, comps []string, deep bool, found *[]string) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	if deep && comps[0] == "**" && len(comps) > 1 { // none of the components that it may be
		if err := w.expand(real, name, comps[1:], deep, found); err != nil {
			return err
		}
	}
	fd, err := w.t.below(real, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		if isAbsent(err) {
			return nil
		}
		return err
	}
	f := os.NewFile(uintptr(fd), real)
	list, err := f.ReadDir(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, d := range list {
		sub, at := join(name, d.Name()), join(real, d.Name())
		if deep && comps[0] == "**" {
			if hidden, _ := w.t.o.Ignore.Below(at); hidden && !w.t.o.Ignore.MayReturn(at) {
				continue
			}
			if len(comps) == 1 {
				*found = append(*found, sub)
			} else if d.IsDir() {
				if err := w.expand(at, sub, comps, deep, found); err != nil {
					return err
				}
			}
			continue
		}
		if ok, err := path.Match(comps[0], d.Name()); err != nil || !ok {
			continue
		}
		if len(comps) == 1 {
			*found = append(*found, sub)
		} else if d.IsDir() {
			if err := w.expand(at, sub, comps[1:], deep, found); err != nil {
				return err
			}
		}
	}
	return nil
}
