package tree

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/sys"
)

// Copy copies what d holds into the directory to, in the place of what that has by
// the same names, and gives to what d has of mode, owner, attributes and times.
// owner gives the owner of a copy by that of the original, and file capabilities
// are then for the uid that it gives for 0; nil leaves both. Like reading, it goes
// by descriptors: a process that changes to meanwhile leads it nowhere else.
// Devices that may not be made here, as in a user namespace, are left out.
func (d *Dir) Copy(ctx context.Context, to *os.File, owner func(uid, gid uint32) (uint32, uint32)) error {
	if d.Empty() {
		return nil // an image without layers
	}
	c := &copier{ctx: ctx, owner: owner, root: int(to.Fd()), first: map[inode]string{}}
	return c.dir(d, c.root, "")
}

type inode struct{ dev, ino uint64 }

// copier is one copy under way. Paths are below its root, and for messages.
type copier struct {
	ctx   context.Context
	owner func(uid, gid uint32) (uint32, uint32)
	root  int
	first map[inode]string // of files with several names, where the first one went
}

func (c *copier) dir(d *Dir, to int, at string) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	names, err := d.Names()
	if err != nil {
		return copyError("read", at, err)
	}
	for _, name := range names {
		e, err := d.Child(name)
		if err != nil {
			return copyError("look at", path.Join(at, name), err)
		}
		if to == c.root {
			if err := os.RemoveAll(sys.FDPath(to) + "/" + name); err != nil {
				return err
			}
		}
		if err := c.entry(d, &e, to, path.Join(at, name)); err != nil {
			return err
		}
	}
	st, err := d.Stat()
	if err != nil {
		return copyError("look at", at, err)
	}
	return c.attributes(to, d.FD(), &st, at)
}

// entry makes the copy of e in the directory to.
func (c *copier) entry(d *Dir, e *Entry, to int, at string) error {
	kind := e.Stat.Mode & unix.S_IFMT
	if e.Stat.Nlink > 1 && !e.IsDir() {
		key := inode{uint64(e.Stat.Dev), e.Stat.Ino} //nolint:unconvert // its type is the architecture's
		if first, ok := c.first[key]; ok {
			return copyError("link", at, c.link(first, to, e.Name))
		}
		c.first[key] = at
	}
	switch {
	case e.IsDir():
		return c.subdir(d, e, to, at)
	case e.IsRegular():
		return c.file(e, to, at)
	case e.IsLink():
		target, err := e.Readlink()
		if err == nil {
			err = unix.Symlinkat(target, to, e.Name)
		}
		if err == nil {
			uid, gid := c.ownerOf(&e.Stat)
			err = unix.Fchownat(to, e.Name, uid, gid, unix.AT_SYMLINK_NOFOLLOW)
		}
		return copyError("symlink", at, err)
	}
	err := unix.Mknodat(to, e.Name, kind|0o600, int(e.Stat.Rdev))
	if err == unix.EPERM && kind != unix.S_IFIFO {
		return nil
	}
	if err != nil {
		return copyError("mknod", at, err)
	}
	return c.special(e, to, at)
}

func (c *copier) subdir(d *Dir, e *Entry, to int, at string) error {
	from, err := d.Open(e.Name)
	if err != nil {
		return copyError("open", at, err)
	}
	defer from.Close()
	if err := unix.Mkdirat(to, e.Name, 0o700); err != nil {
		return copyError("mkdir", at, err)
	}
	fd, err := sys.OpenAt(to, e.Name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return copyError("open", at, err)
	}
	defer unix.Close(fd)
	return c.dir(from, fd, at)
}

// file copies content without its blocks where the file system can share them.
func (c *copier) file(e *Entry, to int, at string) error {
	src, err := e.OpenFile()
	if err != nil {
		return err
	}
	defer src.Close()
	fd, err := sys.CreateAt(to, e.Name, 0o600)
	if err != nil {
		return copyError("create", at, err)
	}
	dst := os.NewFile(uintptr(fd), at)
	if unix.IoctlFileClone(fd, int(src.Fd())) != nil {
		_, err = io.Copy(dst, src)
	}
	if err == nil {
		err = c.attributes(fd, int(src.Fd()), &e.Stat, at)
	}
	return errors.Join(err, dst.Close())
}

// special gives a pipe or a device its attributes.
func (c *copier) special(e *Entry, to int, at string) error {
	from, err := sys.OpenAt(e.At, e.Name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return copyError("open", at, err)
	}
	defer unix.Close(from)
	fd, err := sys.OpenAt(to, e.Name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return copyError("open", at, err)
	}
	defer unix.Close(fd)
	return c.attributes(fd, from, &e.Stat, at)
}

// link gives the file at first another name.
func (c *copier) link(first string, to int, name string) error {
	fd, err := sys.OpenBelow(c.root, "./"+path.Dir(first), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Linkat(fd, path.Base(first), to, name, 0)
}

func (c *copier) ownerOf(st *unix.Stat_t) (uid, gid int) {
	u, g := st.Uid, st.Gid
	if c.owner != nil {
		u, g = c.owner(u, g)
	}
	return int(u), int(g)
}

// attributes gives the file to what from has, in this order: a change of owner
// clears set-id bits and capabilities. Both may be open with O_PATH.
func (c *copier) attributes(to, from int, st *unix.Stat_t, at string) error {
	uid, gid := c.ownerOf(st)
	file := sys.FDPath(to)
	if err := unix.Chown(file, uid, gid); err != nil {
		return copyError("chown", at, err)
	}
	if err := unix.Chmod(file, st.Mode&0o7777); err != nil {
		return copyError("chmod", at, err)
	}
	values, err := sys.Xattrs(from, copied)
	if err != nil {
		return copyError("read", at, err)
	}
	for name, value := range values {
		if name == "security.capability" {
			value = c.capability(value)
		}
		if err := unix.Setxattr(file, name, value, 0); err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return copyError("setxattr "+name, at, err)
		}
	}
	return copyError("set the time of", at, sys.SetTimesAt(to, "", st.Mtim))
}

// copied says which attributes go with a file: those of overlay belong to the
// layer, SELinux's to the machine.
func copied(name string) bool {
	return !strings.Contains(name, ".overlay.") && !strings.HasPrefix(name, "security.selinux")
}

// capability gives a file's capabilities to the root of the copy instead of ours:
// struct vfs_ns_cap_data of linux/capability.h ends in the id that they are for.
func (c *copier) capability(value []byte) []byte {
	const v2, v3, size = 2, 3, 20
	if c.owner == nil || len(value) != size || value[3] != v2 {
		return value
	}
	root, _ := c.owner(0, 0)
	value = append(value, byte(root), byte(root>>8), byte(root>>16), byte(root>>24))
	value[3] = v3
	return value
}

func copyError(op, at string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("copy of the image: %w", &os.PathError{Op: op, Path: "/" + at, Err: err})
}
