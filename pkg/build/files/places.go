package files

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/sys"
)

// Place is where something is mounted, of which Missing is not there before.
type Place struct {
	Path    string // without links, "/" first
	Missing []string
}

// Places finds the places of mounts at targets in t that will have to be made.
func Places(t *tree.Tree, targets []string) ([]Place, error) {
	var list []Place
	for _, p := range targets {
		f, err := t.Walk(p, true)
		if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // mounting there will fail, and say why
		}
		if err != nil {
			return nil, err
		}
		if !f.Exists() {
			list = append(list, Place{f.Path, f.Missing})
		}
		f.Close()
	}
	return list, nil
}

// RemovePlaces takes away from upper, above t, what was made for mounts at places
// and holds nothing else: empty files and directories, and copies of directories
// that are as they are below.
func RemovePlaces(upper string, t *tree.Tree, places []Place) error {
	if len(places) == 0 {
		return nil
	}
	root, err := unix.Open(upper, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: upper, Err: err}
	}
	defer unix.Close(root)
	for _, p := range places {
		if err := removePlace(root, t, p); err != nil {
			return pathError("remove the mount point", path.Join(append([]string{p.Path}, p.Missing...)...), err)
		}
	}
	return nil
}

// beneath opens a directory of the upper one, without following any link.
func beneath(root int, p string) (int, error) {
	const resolve = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	return sys.OpenBelow(root, strings.Trim(p, "/"), unix.O_RDONLY|unix.O_DIRECTORY, resolve)
}

func removePlace(root int, t *tree.Tree, p Place) error {
	for n := len(p.Missing); n > 0; n-- {
		dir, name := path.Join(append([]string{p.Path}, p.Missing[:n-1]...)...), p.Missing[n-1]
		gone, err := removeEmpty(root, dir, name)
		if err != nil || !gone {
			return err
		}
	}
	// The directory that was there has been copied up for it.
	for at := p.Path; at != "/"; at = path.Dir(at) {
		same, err := unchanged(root, t, at)
		if err != nil || !same {
			return err
		}
		gone, err := removeEmpty(root, path.Dir(at), path.Base(at))
		if err != nil || !gone {
			return err
		}
	}
	return nil
}

// removeEmpty removes an empty file or directory; gone also if it is not there.
func removeEmpty(root int, dir, name string) (gone bool, err error) {
	fd, err := beneath(root, dir)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return false, nil // the command made something else of it
	}
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	err = unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			return false, nil
		}
	case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size == 0:
		err = unix.Unlinkat(fd, name, 0)
	default:
		return false, nil
	}
	return err == nil, err
}

// unchanged reports whether the directory at has the mode and the owner that it
// has below; if it is empty, too, it is of no use. If it is not, it gets the time
// that it has below, when nothing in it is the layer's own but directories.
func unchanged(root int, t *tree.Tree, at string) (bool, error) {
	fd, err := beneath(root, at)
	if errors.Is(err, unix.ENOENT) {
		return true, nil
	}
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return false, err
	}
	f, err := t.Walk(at, false)
	if err != nil {
		return false, nil
	}
	defer f.Close()
	if !f.Exists() || f.Dir == nil {
		return false, nil
	}
	old, err := f.Dir.Stat()
	if err != nil || old.Mode != st.Mode || old.Uid != st.Uid || old.Gid != st.Gid || tree.Opaque(fd) {
		return false, err
	}
	return true, nil
}
