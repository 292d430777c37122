package lower

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// mount is one of the spec's mounts, its options read.
type mount struct {
	what           string
	fstype, source string
	target         string
	attr           mountAttr
	bind, rbind    bool
	cgroup, own    bool     // own: cgroups that are not the container's are read-only
	subpath        string   // of a bind, below its source; else below the file system's root
	data           []string // options of the file system itself
	mode           bool     // data says which mode the file system's root has
	k              kind
	mapped         bool // the user namespace in the slot idmap says which owner is seen for which
	idmap          int

	tree   *Tree
	memory *Memory

	fd    wire.Arg   // the detached mount
	parts []wire.Arg // of a cgroup mount: those below it
}

// mountAttr are the attributes of a mount.
type mountAttr struct {
	set, clear uint64 // of the mount itself
	setRec     uint64 // of all below it, too
	prop       uint64 // MS_PRIVATE …; 0: private
	propRec    int
}

// mountList reads the spec's mounts, and the container's own files as further ones.
func (b *builder) mountList() ([]mount, error) {
	var list []mount
	taken := map[string]bool{}
	for _, sm := range b.spec.Mounts {
		m, err := b.parseMount(sm)
		if err != nil {
			return nil, err
		}
		taken[m.target] = true
		list = append(list, m)
	}
	own := mountAttr{prop: unix.MS_PRIVATE}
	if b.spec.Root.Readonly {
		own.set = unix.MOUNT_ATTR_RDONLY
	}
	for _, f := range b.o.Files {
		t := path.Clean("/" + f.Target)
		if taken[t] {
			continue // the user's own
		}
		list = append(list, mount{what: "mount " + t, target: t, source: f.Source, bind: true, k: aFile, attr: own})
	}
	return b.made(list), nil
}

func (b *builder) parseMount(sm specs.Mount) (mount, error) {
	m := mount{fstype: sm.Type, source: sm.Source, target: path.Clean("/" + sm.Destination), bind: isBind(sm), cgroup: sm.Type == "cgroup"}
	m.what = "mount " + m.target
	if m.bind {
		m.k = likeSource
		m.what = "mount " + sm.Source + " at " + m.target
		if !path.IsAbs(sm.Source) {
			return m, errs.New(errs.Invalid, fmt.Sprintf("the source %q of a bind mount is not absolute", sm.Source))
		}
	}
	if m.idmap, m.mapped = b.o.IDMapped[m.target]; !m.mapped && len(sm.UIDMappings)+len(sm.GIDMappings) > 0 {
		return m, errs.New(errs.Unsupported, "id-mapped mounts are not supported: "+m.target)
	}
	for _, o := range sm.Options {
		if flag, rec := propagation(o); flag != 0 {
			m.attr.prop, m.attr.propRec = flag, rec
			continue
		}
		if m.attr.option(o) {
			continue
		}
		if below, ok := strings.CutPrefix(o, plan.Subpath); ok {
			m.subpath = below
			continue
		}
		switch o {
		case plan.OwnCgroups:
			m.own = true
		case "bind":
		case "rbind":
			m.rbind = true
		case "defaults", "rw", "suid", "dev", "exec", "async", "loud", "silent", "mand", "nomand", "relatime", "norelatime", "atime", "diratime", "symfollow", "":
			// What a mount is without being told. Nothing is taken off a bind: its
			// source may be locked to be read-only.
		case "tmpcopyup":
			if !b.o.CopyUp {
				return m, errs.New(errs.Unsupported, fmt.Sprintf("the mount option %q is not supported", o))
			}
		case "idmap", "ridmap":
			return m, errs.New(errs.Unsupported, fmt.Sprintf("the mount option %q is not supported", o))
		default:
			if m.bind {
				b.warn(fmt.Sprintf("the option %q of the bind mount at %s is ignored", o, m.target))
				continue
			}
			if sm.Type == "devpts" && b.o.SingleID && strings.HasPrefix(o, "gid=") {
				continue // no such group here
			}
			m.mode = m.mode || strings.HasPrefix(o, "mode=")
			m.data = append(m.data, o)
		}
	}
	return m, nil
}

// option reads one option about the mount itself.
func (a *mountAttr) option(o string) bool {
	flags := map[string]uint64{
		"ro": unix.MOUNT_ATTR_RDONLY, "nosuid": unix.MOUNT_ATTR_NOSUID, "nodev": unix.MOUNT_ATTR_NODEV, "noexec": unix.MOUNT_ATTR_NOEXEC,
		"nosymfollow": unix.MOUNT_ATTR_NOSYMFOLLOW, "nodiratime": unix.MOUNT_ATTR_NODIRATIME,
	}
	atime := map[string]uint64{"noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME}
	if f, ok := flags[o]; ok {
		a.set |= f
		return true
	}
	if f, ok := atime[o]; ok {
		a.set, a.clear = a.set&^unix.MOUNT_ATTR__ATIME|f, unix.MOUNT_ATTR__ATIME
		return true
	}
	if r, ok := strings.CutPrefix(o, "r"); ok {
		if f, ok := flags[r]; ok {
			a.setRec |= f
			return true
		}
		switch r {
		case "rw", "suid", "dev", "exec", "symfollow":
			return true
		}
	}
	return false
}

// attr is struct mount_attr, but for the id map.
type attr struct{ set, clear, propagation uint64 }

func (b *builder) setattr(what string, fd wire.Arg, recursive int, a attr) {
	at := b.Words(wire.Num(int64(a.set)), wire.Num(int64(a.clear)), wire.Num(int64(a.propagation)), wire.Num(0))
	b.Call(what, unix.SYS_MOUNT_SETATTR, fd, "", unix.AT_EMPTY_PATH|recursive, at, 32)
}

// openBind opens the source of a bind as a detached copy with its attributes set,
// so that it is at no moment visible without them.
func (b *builder) openBind(m *mount) {
	m.fd = b.NewReg()
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC
	if m.rbind {
		flags |= unix.AT_RECURSIVE
	}
	if ns, ok := elsewhere(m.source); ok {
		b.openElsewhere(m, ns, flags)
	} else if m.subpath != "" {
		// What is in there belongs to containers: no link of theirs leads out of it.
		mark := b.Mark()
		top := b.NewReg()
		b.Call(m.what, unix.SYS_OPENAT, unix.AT_FDCWD, m.source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).To(top)
		at := b.lookup(m.what+": cannot access path "+m.subpath, top, m.subpath, unix.O_PATH, inRoot)
		b.Call(m.what, unix.SYS_OPEN_TREE, at, "", flags|unix.AT_EMPTY_PATH).To(m.fd)
		b.close(at)
		b.close(top)
		b.Free(mark)
	} else {
		b.Call(m.what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, m.source, flags).To(m.fd)
	}
	if m.mapped {
		at := b.Words(wire.Num(unix.MOUNT_ATTR_IDMAP), wire.Num(0), wire.Num(0), wire.Num(0))
		what := m.what + " with other owners"
		b.Do(wire.OpStore, what, 0, at.Plus(24), wire.InSlot(m.idmap), 8)
		b.Call(what, unix.SYS_MOUNT_SETATTR, m.fd, "", unix.AT_EMPTY_PATH, at, 32)
	}
	b.bindAttrs(m.what, m.fd, m.attr, m.rbind)
}

const shm = "/dev/shm"

// elsewhere reports whether source is /proc/PID/root/dev/shm, the shared memory
// of another container, and returns the path of its mount namespace: nobody may
// copy a mount from outside of it.
func elsewhere(source string) (ns string, ok bool) {
	proc, ok := strings.CutSuffix(source, "/root"+shm)
	pid, in := strings.CutPrefix(proc, "/proc/")
	if !ok || !in || pid == "" || strings.Trim(pid, "0123456789") != "" {
		return "", false
	}
	return proc + "/ns/mnt", true
}

// openElsewhere copies the shared memory of another container from inside of it.
// There the name is resolved below the other container's root, so that no link
// leads out of it; coming back resets root and working directory.
func (b *builder) openElsewhere(m *mount, ns string, flags int) {
	defer b.Free(b.Mark())
	root, own := b.NewReg(), b.NewReg()
	b.Call(m.what, unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).To(root)
	b.Call(m.what, unix.SYS_OPENAT, unix.AT_FDCWD, "/proc/self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC).To(own)
	if slot, ok := b.o.Joined[specs.IPCNamespace]; ok {
		b.Call(m.what, unix.SYS_SETNS, wire.InSlot(slot), unix.CLONE_NEWNS)
	} else {
		other := b.NewReg()
		b.Call(m.what, unix.SYS_OPENAT, unix.AT_FDCWD, ns, unix.O_RDONLY|unix.O_CLOEXEC).To(other)
		b.Call(m.what, unix.SYS_SETNS, other, unix.CLONE_NEWNS)
		b.close(other)
	}
	b.Call(m.what, unix.SYS_OPEN_TREE, unix.AT_FDCWD, shm, flags).To(m.fd)
	b.Call(m.what, unix.SYS_SETNS, own, unix.CLONE_NEWNS)
	b.Call(m.what, unix.SYS_FCHDIR, root)
	b.Call(m.what, unix.SYS_CHROOT, ".")
	b.close(root)
	b.close(own)
}

func (b *builder) bindAttrs(what string, fd wire.Arg, a mountAttr, rbind bool) {
	prop, rec := a.prop, a.propRec
	if prop == 0 {
		prop, rec = unix.MS_PRIVATE, unix.AT_RECURSIVE
	}
	if !rbind || rec == 0 && a.setRec == 0 { // one mount, or one call for the uppermost
		b.setattr(what, fd, 0, attr{set: a.set | a.setRec, clear: a.clear, propagation: prop})
		return
	}
	if rec != 0 {
		b.setattr(what, fd, unix.AT_RECURSIVE, attr{set: a.setRec, propagation: prop})
	} else {
		b.setattr(what, fd, unix.AT_RECURSIVE, attr{set: a.setRec})
		b.setattr(what, fd, 0, attr{propagation: prop})
	}
	if a.set&^a.setRec != 0 {
		b.setattr(what, fd, 0, attr{set: a.set, clear: a.clear})
	}
}

// openFS makes a file system and leaves it detached. It must be done while the
// host's tree is there: a user namespace gets a new proc or sysfs only where it
// sees all of one.
func (b *builder) openFS(m *mount) {
	m.fd = b.NewReg()
	defer b.Free(b.Mark())
	fs := b.NewReg()
	b.Call(m.what, unix.SYS_FSOPEN, m.fstype, unix.FSOPEN_CLOEXEC).To(fs)
	if m.source != "" {
		b.Call(m.what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, "source", m.source, 0).Expect(uint16(unix.EINVAL))
	}
	for _, o := range m.data {
		what := m.what + " with " + o
		if key, value, ok := strings.Cut(o, "="); ok {
			b.Call(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, key, value, 0)
		} else {
			b.Call(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_FLAG, o, 0, 0)
		}
	}
	b.Call(m.what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0)
	s := b.Call(m.what, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, m.attr.set|m.attr.setRec).To(m.fd)
	switch {
	case m.fstype == "proc" && m.target == "/proc":
		b.procs = m.fd
		if b.o.OuterProc {
			s.Expect(uint16(unix.EPERM))
			made := b.Jump(wire.OpJumpNe, m.fd, -int(unix.EPERM))
			b.Call("bind the outer /proc", unix.SYS_OPEN_TREE, unix.AT_FDCWD, "/proc", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).To(m.fd)
			b.bindAttrs("bind the outer /proc", m.fd, m.attr, true)
			b.Land(made)
		}
	case m.fstype == "devpts" && m.target == "/dev/pts":
		b.pts = m.fd
	}
	b.close(fs)
}

// mount puts m's detached mount in its place.
func (b *builder) mount(m *mount) {
	resolve := uint64(inRoot)
	if kernels := []string{"proc", "sysfs", "devpts", "mqueue", "cgroup"}; slices.Contains(kernels, m.fstype) || m.target == "/dev" {
		// An image that makes a link of one of these is up to no good.
		resolve = noLinks
	}
	mark := b.Mark()
	if m.fstype == "tmpfs" && !m.bind && !m.mode {
		covered := b.lookup(m.what, b.root, m.target, unix.O_PATH, resolve, uint16(unix.ENOENT))
		missing := b.Jump(wire.OpJumpEq, covered, -int(unix.ENOENT))
		b.takeMode(m, covered)
		b.close(covered)
		b.Land(missing)
	}
	at := b.target(m.what, m.target, m.k, m.fd, resolve)
	b.Call(m.what, unix.SYS_MOVE_MOUNT, m.fd, "", at, "", movedByFD)
	if m.subpath != "" && !m.bind {
		b.mountBelow(m, at)
	}
	if m.attr.prop != 0 && m.attr.prop != unix.MS_PRIVATE && !m.bind {
		b.setattr(m.what, m.fd, 0, attr{propagation: m.attr.prop})
	}
	b.close(at)
	if m.cgroup {
		b.mountCgroups(m)
	}
	if m.fd != b.pts && m.fd != b.procs { // still needed
		b.close(m.fd)
	}
	b.Free(mark)
}

// mountBelow covers m's whole file system, which is at at now, with what of it is
// wanted: before Linux 6.15 a mount is copied only once it is in its place. A link in
// it, which is somebody else's image, leads nowhere out of it.
func (b *builder) mountBelow(m *mount, at wire.Arg) {
	below := b.NewReg()
	part := b.lookup(m.what+": cannot access path "+m.subpath, m.fd, m.subpath, unix.O_PATH, inRoot)
	b.Call(m.what, unix.SYS_OPEN_TREE, part, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH).To(below)
	b.Call(m.what, unix.SYS_MOVE_MOUNT, below, "", at, "", movedByFD)
	b.close(part)
	b.close(below)
}

// takeMode gives a tmpfs the mode of the directory that it covers: /tmp stays
// what the image made it. One that covers nothing keeps the kernel's, 1777, so
// that every user can write to it.
func (b *builder) takeMode(m *mount, at wire.Arg) {
	mode, dir := b.NewReg(), b.NewReg()
	b.statx(m.what, at)
	b.Do(wire.OpLoad, m.what, 0, b.stat.Plus(28), 2).To(mode)
	b.Do(wire.OpAnd, m.what, 0, mode, 0o7777).To(mode)
	b.Call(m.what, unix.SYS_OPENAT, m.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC).To(dir)
	b.Call(m.what, unix.SYS_FCHMOD, dir, mode)
	b.close(dir)
}

// openCgroups opens the container's cgroup directories, and a tmpfs to hold them
// if there are several.
func (b *builder) openCgroups(m *mount) {
	if len(b.o.Cgroups) == 1 && b.o.Cgroups[0].Name == "" {
		m.source, m.attr = b.o.Cgroups[0].Source, m.cgroupAttr(b.o.Cgroups[0])
		m.attr.setRec |= m.attr.set
		b.openBind(m)
		return
	}
	holder := *m
	holder.fstype, holder.data, holder.source = "tmpfs", []string{"mode=755"}, "tmpfs"
	holder.attr.set &^= unix.MOUNT_ATTR_RDONLY // until it is filled
	b.openFS(&holder)
	m.fd = holder.fd
	m.mode = true
	for _, c := range b.o.Cgroups {
		if c.Link != "" {
			m.parts = append(m.parts, wire.Arg{})
			continue
		}
		part := mount{what: "mount the cgroup " + c.Name, source: c.Source, attr: m.cgroupAttr(c)}
		b.openBind(&part)
		m.parts = append(m.parts, part.fd)
	}
}

func (m *mount) cgroupAttr(c CgroupMount) mountAttr {
	a := m.attr
	if m.own && c.Shared {
		a.set |= unix.MOUNT_ATTR_RDONLY
	}
	return a
}

func (b *builder) mountCgroups(m *mount) {
	for i, c := range b.o.Cgroups {
		what := "mount the cgroup " + c.Name
		switch {
		case c.Name == "":
		case c.Link != "":
			b.Call(what, unix.SYS_SYMLINKAT, c.Link, m.fd, c.Name)
		default:
			mark := b.Mark()
			b.Call(what, unix.SYS_MKDIRAT, m.fd, c.Name, 0o755)
			at := b.lookup(what, m.fd, c.Name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
			b.Call(what, unix.SYS_MOVE_MOUNT, m.parts[i], "", at, "", movedByFD)
			b.close(at)
			b.close(m.parts[i])
			b.Free(mark)
		}
	}
	if len(m.parts) > 0 && m.attr.set&unix.MOUNT_ATTR_RDONLY != 0 {
		b.setattr(m.what, m.fd, 0, attr{set: unix.MOUNT_ATTR_RDONLY})
	}
}
