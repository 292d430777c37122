package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/sys"
)

// volumeData is where a volume's content is in its directory.
const volumeData = "_data"

// volumes makes those of the container's anonymous volumes that do not exist
// yet and fills them with what the image has in their place. Each is made
// beside the record and renamed when it is complete, so that a command killed
// meanwhile leaves nothing that is not collected with the container.
func (s *Service) volumes(ctx context.Context, rec *container.Record) error {
	for _, v := range rec.Volumes {
		dir := s.store.VolumeDir(v.Name)
		if _, err := os.Lstat(filepath.Join(dir, volumeData)); err == nil {
			continue
		}
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return err
		}
		tmp := filepath.Join(s.store.Dir(rec.ID), "volume.tmp")
		if err := s.removeTree(ctx, tmp); err != nil {
			return err
		}
		if err := s.makeVolume(ctx, tmp, v.Target, rec.Lower); err != nil {
			return fmt.Errorf("fill the volume for %s: %w", v.Target, err)
		}
		if err := os.Rename(tmp, dir); err != nil {
			return err
		}
	}
	return nil
}

// makeVolume makes the volume at tmp. Only one that has content, or another
// owner, needs the user's namespace.
func (s *Service) makeVolume(ctx context.Context, tmp, target string, layers []string) error {
	plain, err := plainDirectory(target, layers)
	if err != nil {
		return err
	}
	if plain {
		return errors.Join(makeDir(tmp, 0o701), makeDir(filepath.Join(tmp, volumeData), 0o755))
	}
	return s.inU(ctx, append([]string{helperVolume, tmp, target}, layers...)...)
}

func makeDir(dir string, mode fs.FileMode) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.Chmod(dir, mode) // whatever the umask
}

// plainDirectory reports whether target is missing in the image, or an empty
// directory with the usual mode and owner.
func plainDirectory(target string, layers []string) (bool, error) {
	v, err := openView(layers)
	if err != nil {
		return false, err
	}
	defer v.Close()
	e, err := v.lookup(target)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return true, nil
	case errors.Is(err, fs.ErrPermission):
		return false, nil
	case err != nil:
		return false, err
	}
	defer e.close()
	if e.dir == nil {
		return true, nil
	}
	if e.stat.Mode&0o7777 != 0o755 || int(e.stat.Uid) != os.Geteuid() || int(e.stat.Gid) != os.Getegid() {
		return false, nil
	}
	names, err := e.dir.names()
	if errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	return len(names) == 0, err
}

// fillVolume makes the volume tmp as a copy of what the layers have at target.
func fillVolume(ctx context.Context, tmp, target string, layers []string) error {
	if err := makeDir(tmp, 0o701); err != nil {
		return err
	}
	v, err := openView(layers)
	if err != nil {
		return err
	}
	defer v.Close()
	e, err := v.lookup(target)
	if err != nil {
		return err
	}
	defer e.close()
	return copyEntry(ctx, e, filepath.Join(tmp, volumeData))
}

// copyEntry copies e to dst, which does not exist. Nobody else can reach dst
// yet, and every name in it is one that this function made.
func copyEntry(ctx context.Context, e entry, dst string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	mode := e.stat.Mode
	var err error
	switch mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		err = copyDir(ctx, e, dst)
	case syscall.S_IFREG:
		err = copyFile(e.leaf, dst)
	case syscall.S_IFLNK:
		var to string
		if to, err = sys.ReadLink(e.leaf); err == nil {
			err = os.Symlink(to, dst)
		}
	default:
		err = syscall.Mknod(dst, mode, int(e.stat.Rdev))
		if errors.Is(err, syscall.EPERM) && mode&syscall.S_IFMT != syscall.S_IFIFO {
			return nil // a device, which a user namespace may not have
		}
	}
	if err != nil {
		return err
	}
	return copyMeta(e, dst)
}

func copyDir(ctx context.Context, e entry, dst string) error {
	if err := os.Mkdir(dst, 0o700); err != nil {
		return err
	}
	names, err := e.dir.names()
	if err != nil {
		return err
	}
	for _, name := range names {
		c, err := e.dir.child(name)
		if err != nil {
			return err
		}
		if err := errors.Join(copyEntry(ctx, c, filepath.Join(dst, name)), c.close()); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(leaf *os.File, dst string) error {
	src, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", leaf.Fd()))
	if err != nil {
		return err
	}
	defer src.Close()
	out, err := os.OpenFile(dst, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, src)
	return errors.Join(err, out.Close())
}

// copyMeta gives dst e's owner, mode, attributes and times, in this order: a
// change of owner clears set-id bits and capabilities.
func copyMeta(e entry, dst string) error {
	if err := os.Lchown(dst, int(e.stat.Uid), int(e.stat.Gid)); err != nil {
		return err
	}
	if e.stat.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		return nil
	}
	if err := syscall.Chmod(dst, e.stat.Mode&0o7777); err != nil {
		return err
	}
	f := e.leaf
	if e.dir != nil {
		f = e.dir[0]
	}
	names, err := sys.Xattrs(f)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.Contains(name, ".overlay.") || strings.HasPrefix(name, "security.selinux") {
			continue
		}
		value := sys.Xattr(f, name)
		if err := syscall.Setxattr(dst, name, value, 0); err != nil && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.EPERM) {
			return &os.PathError{Op: "setxattr " + name, Path: dst, Err: err}
		}
	}
	sec, nsec := e.stat.Mtim.Unix()
	mtime := time.Unix(sec, nsec)
	return os.Chtimes(dst, mtime, mtime)
}
