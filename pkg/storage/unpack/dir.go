package unpack

import (
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/vbatts/tar-split/archive/tar"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// dirMeta is what is left to do with a directory when its contents are there.
type dirMeta struct {
	path  string
	ino   uint64 // to leave alone what has taken its place
	mode  uint32 // permission bits to set; noMode: they are right already
	mtime unix.Timespec
}

const noMode = math.MaxUint32

func (x *extractor) dir(parent int, name, base string, h *tar.Header, mtime unix.Timespec) error {
	mode := perm(h)
	err := unix.Mkdirat(parent, base, mode&0o777)
	made := err == nil
	opaque := false
	var st unix.Stat_t
	if errors.Is(err, unix.EEXIST) {
		if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		err = nil
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			// A directory in the place of a whiteout of this layer hides all that
			// the layers below have in theirs.
			opaque = st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
			if err := x.remove(parent, base); err != nil {
				return err
			}
			err, made = unix.Mkdirat(parent, base, mode&0o777), true
		}
	}
	if err != nil {
		return fmt.Errorf("mkdir: %w", err)
	}
	if err := unix.Fstatat(parent, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if made && mode&0o7000 == 0 {
		mode = noMode
	}
	x.dirs = append(x.dirs, dirMeta{name, st.Ino, mode, mtime})
	if h.Uid == 0 && h.Gid == 0 && !hasPrefix(h.PAXRecords, xattrRecord) && !opaque && made {
		return nil
	}
	fd, err := sys.OpenDirAt(parent, base)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !made && h.Uid == 0 && h.Gid == 0 { // it may belong to somebody
		if err := unix.Fchown(fd, 0, 0); err != nil {
			return x.chownError(h, err)
		}
	}
	if opaque {
		if err := x.setOpaque(fd, name); err != nil {
			return err
		}
	}
	return x.own(fd, h, unix.S_IFDIR)
}

func (x *extractor) setOpaque(fd int, name string) error {
	if x.opaques[name] {
		return nil
	}
	if err := unix.Fsetxattr(fd, x.overlay+"opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("mark as opaque: %w", err)
	}
	x.opaques[name] = true
	return nil
}

func (x *extractor) rootEntry(h *tar.Header, mtime unix.Timespec) error {
	if h.Typeflag != tar.TypeDir {
		return errs.New(errs.Invalid, "the layer's root is not a directory")
	}
	mode := os.FileMode(perm(h) & 0o777)
	for bit, m := range map[uint32]os.FileMode{0o4000: os.ModeSetuid, 0o2000: os.ModeSetgid, 0o1000: os.ModeSticky} {
		if perm(h)&bit != 0 {
			mode |= m
		}
	}
	x.res.RootMode = &mode
	fd, err := sys.OpenDirAt(x.root, ".")
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	x.dirs = append(x.dirs, dirMeta{"", st.Ino, perm(h), mtime})
	if !x.o.Single {
		x.uids[uint32(h.Uid)], x.gids[uint32(h.Gid)] = true, true
	}
	return x.own(fd, h, unix.S_IFDIR)
}

// whiteout hides what lower layers have.
func (x *extractor) whiteout(dir, base string) error {
	if base != whiteoutOpaque && (strings.HasPrefix(base, whiteoutMeta) || strings.Contains("/"+dir+"/", "/"+whiteoutMeta)) {
		return nil // what aufs kept for itself
	}
	hidden := strings.TrimPrefix(base, whiteout)
	if hidden == "" || hidden == "." || hidden == ".." {
		return errs.New(errs.Invalid, "a whiteout that names nothing")
	}
	parent, err := x.parent(dir)
	if err != nil {
		return err
	}
	if base == whiteoutOpaque {
		fd, err := sys.OpenDirAt(parent, ".")
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return x.setOpaque(fd, dir)
	}
	if err := x.create(parent, hidden, func() error { return unix.Mknodat(parent, hidden, unix.S_IFCHR, 0) }); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	return nil
}

// finish sets the directories' modes and times, deepest first.
func (x *extractor) finish() error {
	x.dropParent()
	if x.res.RootMode == nil {
		// No entry for the root: Docker's mode, not the 0555 that it was made with.
		x.dirs = append(x.dirs, dirMeta{path: "", mode: 0o755, mtime: x.newest})
	}
	for _, name := range x.implied {
		x.dirs = append(x.dirs, dirMeta{path: name, mode: noMode, mtime: x.newest})
	}
	if len(x.implied) > 0 { // an entry of its own counts more, wherever it comes
		named := make(map[string]bool, len(x.dirs))
		for _, d := range x.dirs[:len(x.dirs)-len(x.implied)] {
			named[d.path] = true
		}
		x.dirs = slices.DeleteFunc(x.dirs, func(d dirMeta) bool { return d.ino == 0 && d.path != "" && named[d.path] })
	}
	slices.SortStableFunc(x.dirs, func(a, b dirMeta) int { return strings.Compare(b.path, a.path) })
	for _, d := range x.dirs {
		if err := x.finishDir(d); err != nil {
			return fmt.Errorf("directory %q: %w", d.path, err)
		}
	}
	return nil
}

func (x *extractor) finishDir(d dirMeta) error {
	fd, err := sys.OpenBelow(x.root, d.path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, inRoot)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil // replaced by a later entry
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if d.ino != 0 {
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Ino != d.ino {
			return nil
		}
	}
	if d.mode != noMode {
		if err := unix.Fchmod(fd, d.mode); err != nil {
			return err
		}
	}
	return times(fd, "", d.mtime)
}
