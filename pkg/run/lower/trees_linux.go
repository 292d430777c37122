package lower

import (
	"cmp"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"golang.org/x/sys/unix"
)

// Tree mounts a part of merged layers: what a command of a build gets of another
// stage, or of an image.
type Tree struct {
	Target string
	// Layers are merged; Upper and Work make them writable, in Upper. One layer
	// without Upper is bound as it is.
	Layers Overlay
	// Path is the part, resolved beneath the merged root; "/" is all.
	Path string
}

// Memory mounts a directory, or a single file, of a file system in memory: secrets,
// and scripts that a Dockerfile has in it.
type Memory struct {
	Target string
	// Files are in the directory; one without a name is the file at Target.
	Files    []MemoryFile
	ReadOnly bool
}

// MemoryFile is one file of Memory.
type MemoryFile struct {
	Name     string
	Data     []byte
	Mode     uint32
	UID, GID uint32
}

// made are the mounts that are not in the spec, each with its target made if it is
// missing.
func (b *builder) made(list []mount) []mount {
	if len(b.o.Trees)+len(b.o.Memory) == 0 {
		return list
	}
	for i := range b.o.Trees {
		t := &b.o.Trees[i]
		m := mount{target: path.Clean("/" + t.Target), bind: true, k: likeSource, tree: t, attr: mountAttr{prop: unix.MS_PRIVATE}}
		m.what = "mount " + m.target
		if t.Layers.Upper == "" {
			m.attr.set = unix.MOUNT_ATTR_RDONLY
		}
		list = append(list, m)
	}
	for i := range b.o.Memory {
		o := &b.o.Memory[i]
		m := mount{target: path.Clean("/" + o.Target), bind: true, k: likeSource, memory: o, attr: mountAttr{prop: unix.MS_PRIVATE}}
		m.what = "mount " + m.target
		if o.ReadOnly {
			m.attr.set = unix.MOUNT_ATTR_RDONLY
		}
		list = append(list, m)
	}
	slices.SortStableFunc(list, func(x, y mount) int { // parents first
		return cmp.Compare(strings.Count(x.target, "/"), strings.Count(y.target, "/"))
	})
	return list
}

// openTree merges layers at the place where the root will be, and takes the part
// of them that is wanted.
func (b *builder) openTree(m *mount, at string) error {
	t := m.tree
	if t.Path == "" || !path.IsAbs(t.Path) {
		return errs.New(errs.Internal, "the part of a tree to mount is not absolute: "+t.Path)
	}
	m.fd = b.NewReg()
	defer b.Free(b.Mark())
	dir := b.NewReg()
	if len(t.Layers.Lower) == 1 && t.Layers.Upper == "" {
		b.Call(m.what, unix.SYS_OPENAT, unix.AT_FDCWD, t.Layers.Lower[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).To(dir)
	} else {
		root := b.root
		b.root = dir
		err := b.overlay(&t.Layers, at)
		b.root = root
		if err != nil {
			return err
		}
	}
	part := b.lookup(m.what, dir, t.Path, unix.O_PATH, inRoot)
	b.Call(m.what, unix.SYS_OPEN_TREE, part, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(m.fd)
	b.setattr(m.what, m.fd, 0, attr{set: m.attr.set, propagation: m.attr.prop})
	b.close(part)
	b.close(dir)
	return nil
}

// openMemory makes a file system in memory and fills it.
func (b *builder) openMemory(m *mount, at string) {
	o := m.memory
	single := len(o.Files) == 1 && o.Files[0].Name == ""
	fs := mount{what: m.what, fstype: "tmpfs", source: "tmpfs", data: []string{"mode=755"},
		attr: mountAttr{set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, prop: unix.MS_PRIVATE}}
	b.openFS(&fs)
	m.fd = fs.fd
	for _, f := range o.Files {
		mark := b.Mark()
		fd := b.NewReg()
		name := f.Name
		if single {
			name = "file"
		}
		b.Call(m.what, unix.SYS_OPENAT, fs.fd, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o600).To(fd)
		if len(f.Data) > 0 {
			b.Call(m.what, unix.SYS_WRITE, fd, b.Bytes(f.Data), len(f.Data)) // in memory, so all of it or an error
		}
		if f.UID != 0 || f.GID != 0 {
			b.Call(m.what, unix.SYS_FCHOWN, fd, f.UID, f.GID)
		}
		b.Call(m.what, unix.SYS_FCHMOD, fd, f.Mode)
		b.close(fd)
		b.Free(mark)
	}
	if single {
		mark := b.Mark()
		b.Call(m.what, unix.SYS_MOVE_MOUNT, fs.fd, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH) // it must have a place to be cloned from
		part := b.lookup(m.what, fs.fd, "file", unix.O_PATH, inRoot)
		b.close(fs.fd)
		b.Call(m.what, unix.SYS_OPEN_TREE, part, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(m.fd)
		b.close(part)
		b.Free(mark)
	}
	b.setattr(m.what, m.fd, 0, attr{set: m.attr.set | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV, propagation: m.attr.prop})
}
