package export

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/layer/merged"
	"cais.dev/cais/pkg/sys"
)

// Files are a result's files: the directories of its layers.
type Files struct {
	Dirs      []string // top first; none: there are no files
	UserXattr bool     // overlay's marks in them are user.* attributes
	// Time, if set, is what all files have: SOURCE_DATE_EPOCH.
	Time time.Time
}

// open merges the layers. The name is valid as long as the file is open.
func (f Files) open() (m *os.File, name string, err error) {
	if m, err = merged.Open(f.Dirs, f.UserXattr); err != nil {
		return nil, "", err
	}
	return m, sys.FDPath(int(m.Fd())), nil
}

// Tar writes the files as a tar, with their owners.
func (f Files) Tar(ctx context.Context, w io.Writer) error {
	if len(f.Dirs) == 0 {
		_, err := w.Write(make([]byte, 1024)) // a tar without members
		return err
	}
	m, name, err := f.open()
	if err != nil {
		return err
	}
	defer m.Close()
	_, err = changes.Tar(ctx, w, name, nil, changes.TarOptions{Time: f.Time})
	return err
}

// TarOf writes several results' files as one tar, each below the directory that it is
// called by.
func TarOf(ctx context.Context, w io.Writer, parts map[string]Files) error {
	out := tar.NewWriter(w)
	for _, dir := range slices.Sorted(maps.Keys(parts)) {
		r, pw := io.Pipe()
		go func() { pw.CloseWithError(parts[dir].Tar(ctx, pw)) }()
		err := below(out, dir, parts[dir].Time, tar.NewReader(r))
		r.CloseWithError(err) // the writer ends, and its files are closed
		if err != nil {
			return err
		}
	}
	return out.Close()
}

// below copies a tar's members to places below dir.
func below(out *tar.Writer, dir string, t time.Time, in *tar.Reader) error {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: t}); err != nil {
		return err
	}
	for {
		h, err := in.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		h.Name = dir + "/" + h.Name
		if h.Typeflag == tar.TypeLink {
			h.Linkname = dir + "/" + h.Linkname
		}
		if err := out.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			return err
		}
	}
}

// Directory writes the files into the directory dest, which is made if need be:
// as the caller's own, with their modes and times. What is there already stays,
// but for what is in the way; with remove, nothing else stays. Links that are in
// dest are replaced, not followed. skipped are devices that may not be made.
func (f Files) Directory(ctx context.Context, dest string, remove bool) (skipped []string, err error) {
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return nil, err
	}
	root, err := unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dest, Err: err}
	}
	w := &writer{f: f, root: root, wrote: map[string]bool{}}
	defer w.close()
	if len(f.Dirs) > 0 {
		m, name, err := f.open()
		if err != nil {
			return nil, err
		}
		defer m.Close()
		err = changes.Walk(ctx, name, nil, changes.Options{}, func(e *changes.Entry) error {
			if err := w.entry(e); err != nil {
				return errs.E("write "+path.Join(dest, e.Path), errs.KindOf(err), err)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if remove {
		if err := w.remove(root, ""); err != nil {
			return nil, err
		}
	}
	return w.skipped, w.finish()
}

// writer writes into a directory, component by component, following nothing.
type writer struct {
	f       Files
	root    int
	at      string // the directory that fd is
	fd      int    // 0: none but the root
	dirs    []doneDir
	wrote   map[string]bool
	skipped []string
}

type doneDir struct {
	path  string
	mode  uint32
	mtime unix.Timespec
}

func (w *writer) close() {
	if w.fd > 0 {
		unix.Close(w.fd)
	}
	unix.Close(w.root)
}

// beneath opens a directory of dest without following links.
func (w *writer) beneath(dir string) (int, error) {
	return sys.OpenBelow(w.root, dir, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
}

// parent is a descriptor of the directory that name is in.
func (w *writer) parent(name string) (int, error) {
	dir := path.Dir(name)
	if dir == "." {
		return w.root, nil
	}
	if w.fd > 0 && w.at == dir {
		return w.fd, nil
	}
	fd, err := w.beneath(dir)
	if err != nil {
		return -1, err
	}
	if w.fd > 0 {
		unix.Close(w.fd)
	}
	w.fd, w.at = fd, dir
	return fd, nil
}

func (w *writer) time(t unix.Timespec) unix.Timespec {
	if w.f.Time.IsZero() {
		return t
	}
	return unix.NsecToTimespec(w.f.Time.UnixNano())
}

func (w *writer) entry(e *changes.Entry) error {
	parent, err := w.parent(e.Path)
	if err != nil {
		return err
	}
	base, st := path.Base(e.Path), &e.Stat
	w.wrote[e.Path] = true
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err := w.clear(parent, base, true); err != nil {
			return err
		}
		if err := unix.Mkdirat(parent, base, 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
			return err
		}
		w.dirs = append(w.dirs, doneDir{e.Path, st.Mode & 0o7777, w.time(st.Mtim)})
		return nil
	}
	if err := w.clear(parent, base, false); err != nil {
		return err
	}
	if e.Hard != "" {
		from, err := w.beneath(path.Dir(e.Hard))
		if err != nil {
			return err
		}
		defer unix.Close(from)
		return unix.Linkat(from, path.Base(e.Hard), parent, base, 0)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		err = w.file(parent, base, e)
	case unix.S_IFLNK:
		err = unix.Symlinkat(e.Link, parent, base)
	case unix.S_IFIFO:
		err = unix.Mknodat(parent, base, st.Mode, 0)
	default:
		if err = unix.Mknodat(parent, base, st.Mode, int(st.Rdev)); errors.Is(err, unix.EPERM) {
			w.skipped = append(w.skipped, e.Path)
			return nil
		}
	}
	if err != nil {
		return err
	}
	return sys.SetTimesAt(parent, base, w.time(st.Mtim))
}

// clear removes what is in the way; a directory is in nobody's way who wants
// one.
func (w *writer) clear(parent int, base string, dir bool) error {
	var st unix.Stat_t
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return err
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch {
	case dir && isDir:
		return nil
	case isDir:
		return fmt.Errorf("there is a directory already: %w", unix.EISDIR)
	}
	return unix.Unlinkat(parent, base, 0)
}

func (w *writer) file(parent int, base string, e *changes.Entry) error {
	fd, err := sys.CreateAt(parent, base, 0o600)
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), base)
	defer out.Close()
	in, err := e.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return unix.Fchmod(fd, e.Stat.Mode&0o7777)
}

// finish sets the directories' modes and times, the last one first.
func (w *writer) finish() error {
	for i := len(w.dirs) - 1; i >= 0; i-- {
		d := w.dirs[i]
		fd, err := w.beneath(d.path)
		if err != nil {
			return err
		}
		err = unix.Fchmod(fd, d.mode)
		if err == nil {
			err = sys.SetTimesAt(fd, "", d.mtime)
		}
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// remove removes what was not written, below the directory that fd is.
func (w *writer) remove(fd int, dir string) error {
	again, err := sys.OpenDirAt(fd, ".")
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(again), dir)
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, d := range list {
		name := strings.TrimPrefix(dir+"/"+d.Name(), "/")
		if !w.wrote[name] {
			if err := sys.RemoveAt(again, d.Name()); err != nil {
				return err
			}
			continue
		}
		if !d.IsDir() {
			continue
		}
		sub, err := sys.OpenDirAt(again, d.Name())
		if err != nil {
			return err
		}
		err = w.remove(sub, name)
		unix.Close(sub)
		if err != nil {
			return err
		}
	}
	return nil
}
