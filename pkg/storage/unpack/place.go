package unpack

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// clean makes a name relative to the root; ".." stops there.
func clean(name string) string { return path.Clean("/" + name)[1:] }

// parent returns a descriptor of the directory dir, which stays the
// extractor's. What is missing of it is made.
func (x *extractor) parent(dir string) (int, error) {
	if x.parentFD >= 0 && x.parentPath == dir {
		return x.parentFD, nil
	}
	fd, err := x.resolve(dir)
	if errors.Is(err, unix.ENOENT) {
		fd, err = x.makeAll(dir)
	}
	if err != nil {
		return -1, fmt.Errorf("its directory %q: %w", dir, err)
	}
	x.dropParent()
	x.parentPath, x.parentFD = dir, fd
	return fd, nil
}

func (x *extractor) dropParent() {
	if x.parentFD >= 0 {
		_ = unix.Close(x.parentFD) // O_PATH: nothing to lose
		x.parentFD = -1
	}
}

// resolve opens a directory; symlinks on the way stay inside the root.
func (x *extractor) resolve(dir string) (int, error) {
	return openDir(x.root, dir)
}

// inRoot is how a layer's paths are followed: links stay in the root.
const inRoot = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV

func openDir(root int, dir string) (int, error) {
	return sys.OpenBelow(root, dir, unix.O_PATH|unix.O_DIRECTORY, inRoot)
}

// makeAll makes the missing directories of dir: root's, 0755, with a time that
// does not depend on the day.
func (x *extractor) makeAll(dir string) (int, error) {
	fd, err := x.resolve("")
	for i := 0; err == nil && i <= len(dir); i++ {
		if i < len(dir) && dir[i] != '/' {
			continue
		}
		up := fd
		fd, err = x.resolve(dir[:i])
		if errors.Is(err, unix.ENOENT) {
			base := path.Base(dir[:i])
			if err = unix.Mkdirat(up, base, 0o755); err == nil {
				x.implied = append(x.implied, dir[:i])
				fd, err = x.resolve(dir[:i])
			} else if errors.Is(err, unix.EEXIST) {
				err = errs.New(errs.Invalid, "a symlink that leads nowhere is in the way")
			}
		}
		_ = unix.Close(up)
	}
	return fd, err
}

// create runs make, and once more when it has removed what was in the way:
// the last entry of a name wins.
func (x *extractor) create(parent int, base string, make func() error) error {
	err := make()
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := x.remove(parent, base); err != nil {
		return fmt.Errorf("replace what has its name: %w", err)
	}
	return make()
}

func (x *extractor) remove(parent int, base string) error {
	err := sys.RemoveAt(parent, base)
	if x.parentFD != parent { // cannot be: entries are made in the parent that is kept
		return err
	}
	x.parentPath = "\x00" // the descriptor stays open for the caller; no path equals this
	return err
}

func exists(parent int, base string) error {
	if base == "" {
		return unix.EISDIR
	}
	var st unix.Stat_t
	return unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW)
}
