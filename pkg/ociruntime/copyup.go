package ociruntime

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// wantsCopy says that a tmpfs is to begin with what it covers.
func wantsCopy(m specs.Mount) bool {
	return m.Type == "tmpfs" && slices.Contains(m.Options, "tmpcopyup")
}

// copyUp fills the container's file systems in memory with what they cover. The
// process waits with its mounts made and its root still the host's: what they cover
// is seen from here, they are seen by way of the process. Both are walked below
// their roots.
func (c *Container) copyUp(p *Process) error {
	from, err := os.OpenRoot(c.rec.Rootfs)
	if err != nil {
		return err
	}
	defer from.Close()
	for _, m := range p.spec.Mounts {
		if !wantsCopy(m) {
			continue
		}
		name := strings.TrimPrefix(path.Clean("/"+m.Destination), "/")
		if name == "" {
			continue
		}
		source, err := from.OpenRoot(name)
		if err != nil {
			continue // it covers nothing, or what leads nowhere
		}
		err = c.fill(p, source, name)
		if err := errors.Join(err, source.Close()); err != nil {
			return fmt.Errorf("copy %s into its file system in memory: %w", m.Destination, err)
		}
	}
	return nil
}

func (c *Container) fill(p *Process, source *os.Root, name string) error {
	place := c.rec.Rootfs
	if c.early {
		place = "/sys"
	}
	root, err := os.OpenRoot(fmt.Sprintf("/proc/%d/root%s", p.PID, place))
	if err != nil {
		return err
	}
	defer root.Close()
	to, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer to.Close()
	var here, there syscall.Stat_t
	if syscall.Stat(filepath.Join(c.rec.Rootfs, name), &here) == nil {
		if st, err := to.Stat("."); err == nil {
			there = *st.Sys().(*syscall.Stat_t)
		}
		if here.Dev == there.Dev { // a link led to a directory without a mount
			return nil
		}
	}
	return copyTree(source, to)
}

func copyTree(from, to *os.Root) error {
	return fs.WalkDir(from.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == "." {
			return err
		}
		st, err := from.Lstat(name)
		if err != nil {
			return err
		}
		switch {
		case st.IsDir():
			err = to.Mkdir(name, 0o700)
		case st.Mode()&fs.ModeSymlink != 0:
			var target string
			if target, err = from.Readlink(name); err == nil {
				err = to.Symlink(target, name)
			}
		case st.Mode().IsRegular():
			err = copyFile(from, to, name)
		default:
			return nil // a device or a socket has no place there
		}
		if err != nil {
			return err
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			if err := to.Lchown(name, int(sys.Uid), int(sys.Gid)); err != nil && !errors.Is(err, syscall.EPERM) {
				return err
			}
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		return errors.Join(to.Chmod(name, st.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)), to.Chtimes(name, st.ModTime(), st.ModTime()))
	})
}

func copyFile(from, to *os.Root, name string) error {
	in, err := from.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := to.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
