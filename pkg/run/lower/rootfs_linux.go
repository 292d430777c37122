package lower

import (
	"path"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const movedByFD = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH

// rootfs makes the container's tree: first everything that comes from the host
// is opened as a detached mount, then the root is put in place, then the mounts
// on it, by descriptors.
func (b *builder) rootfs(mounts []mount) error {
	// All are opened in their order, by which mountinfo lists them, and while we
	// still share mounts with the host: a bind may be to go on with that.
	for i := range mounts {
		switch m := &mounts[i]; {
		case m.fd.Kind == wire.ArgReg, m.tree != nil, m.memory != nil: // by openSources, or below
		case m.cgroup:
			b.openCgroups(m)
		case m.bind:
			b.openBind(m)
		default:
			b.openFS(m)
		}
	}
	if b.ns.created&unix.CLONE_NEWNS != 0 {
		b.Call("keep our mounts from the host", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	}
	for i := range mounts { // these need a place in our namespace
		switch m := &mounts[i]; {
		case m.tree != nil:
			if err := b.openTree(m, b.rootPlace()); err != nil {
				return err
			}
		case m.memory != nil:
			b.openMemory(m, b.rootPlace())
		}
	}
	if !b.early() {
		b.openDevices()
	}
	b.openMasks()
	if err := b.mountRoot(); err != nil {
		return err
	}
	for i := range mounts {
		b.mount(&mounts[i])
	}
	if b.ownDev() {
		b.makeDevices(b.devices)
	}
	return nil
}

// openSources opens the root and the sources of binds where the host's root still
// is root: detached, and with their attributes.
func (b *builder) openSources(mounts []mount) error {
	if b.o.Overlay == nil {
		if err := b.openRootDir(); err != nil {
			return err
		}
	} else {
		b.Call("make a mount namespace", unix.SYS_UNSHARE, unix.CLONE_NEWNS)
	}
	for i := range mounts {
		if m := &mounts[i]; m.bind && !m.cgroup && m.tree == nil && m.memory == nil {
			b.openBind(m)
		} else if m.fstype == "overlay" {
			b.openFS(m) // its layers may be where only we may go
		}
	}
	b.openDevices()
	if b.o.Overlay == nil {
		return nil
	}
	const what = "mount the image's layers"
	b.Call("keep our mounts from the host", unix.SYS_MOUNT, 0, "/", 0, unix.MS_REC|unix.MS_SLAVE, 0)
	root := b.NewReg()
	b.root = b.NewReg()
	if err := b.overlay(b.o.Overlay, b.rootPlace()); err != nil {
		return err
	}
	b.Call(what, unix.SYS_OPEN_TREE, b.root, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH).To(root)
	b.close(b.root)
	b.root = root
	return nil
}

// openRootDir opens a root that is a directory.
func (b *builder) openRootDir() error {
	at := b.spec.Root.Path
	if !path.IsAbs(at) {
		return errs.New(errs.Invalid, "the root's path is not absolute: "+at)
	}
	b.root = b.NewReg()
	b.Call("open the root "+at, unix.SYS_OPEN_TREE, unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE).To(b.root)
	b.setattr("make the root private", b.root, unix.AT_RECURSIVE, attr{propagation: unix.MS_PRIVATE})
	return nil
}

// mountRoot mounts the root file system and leaves its descriptor in b.root.
func (b *builder) mountRoot() error {
	o := b.o.Overlay
	if o == nil || b.early() {
		at := "/sys" // which can be reached by everybody, and is needed no more
		if !b.early() {
			at = b.rootPlace()
			if err := b.openRootDir(); err != nil {
				return err
			}
		}
		b.placeMasks(at)
		b.Call("mount the root", unix.SYS_MOVE_MOUNT, b.root, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
		return nil
	}
	b.root = b.NewReg()
	return b.overlay(o, b.rootPlace())
}

// rootPlace is where the root is mounted.
func (b *builder) rootPlace() string {
	if b.o.Place != "" {
		return b.o.Place
	}
	if at := b.spec.Root.Path; at != "" || b.o.Overlay == nil {
		return at
	}
	return b.o.Overlay.Upper // covered by its own overlay, in this namespace only
}

// overlay mounts o at the path at. Each layer is handed over by itself, which
// Linux 6.7 understands; an older kernel takes one page of options, with paths
// relative to a directory that all have in common.
func (b *builder) overlay(o *Overlay, at string) error {
	if len(o.Lower) == 0 || (o.Upper == "") != (o.Work == "") {
		return errs.New(errs.Internal, "an overlay needs lower, upper and work directories")
	}
	dirs := o.Lower
	if o.Upper != "" {
		dirs = append([]string{o.Upper, o.Work}, dirs...)
	}
	base := commonDir(dirs)
	if base == "" {
		return errs.New(errs.Internal, "an overlay's directories must be absolute")
	}
	rel := func(p string) string { return strings.TrimPrefix(strings.TrimPrefix(p, base), "/") }
	const what = "mount the image's layers"
	b.placeMasks(at) // before the working directory changes, should at be relative to nothing
	b.Call(what, unix.SYS_CHDIR, base)

	fs := b.NewReg()
	b.Call(what, unix.SYS_FSOPEN, "overlay", unix.FSOPEN_CLOEXEC).To(fs)
	var fails []int
	set := func(key, value string) *wire.Step {
		return b.Call(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_STRING, key, value, 0)
	}
	for i, l := range o.Lower {
		s := set("lowerdir+", rel(l))
		if i == 0 {
			s.Expect(uint16(unix.EINVAL))
			fails = append(fails, b.Last())
		}
	}
	if o.Upper != "" {
		set("upperdir", rel(o.Upper))
		set("workdir", rel(o.Work))
	}
	for _, f := range b.overlayFlags(o) {
		b.Call(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_SET_FLAG, f, 0, 0)
	}
	// Before Linux 6.5 overlay takes every option until then.
	b.Call(what, unix.SYS_FSCONFIG, fs, unix.FSCONFIG_CMD_CREATE, 0, 0, 0).Expect(uint16(unix.EINVAL))
	fails = append(fails, b.Last())
	b.Call(what, unix.SYS_FSMOUNT, fs, unix.FSMOUNT_CLOEXEC, 0).To(b.root)
	b.Call(what, unix.SYS_MOVE_MOUNT, b.root, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	b.close(fs)
	done := b.Jump(wire.OpJumpEq, 0, 0)
	for _, f := range fails {
		b.Land(f)
	}
	b.close(fs)
	var lower []string
	for _, l := range o.Lower {
		lower = append(lower, escape(rel(l)))
	}
	options := []string{"lowerdir=" + strings.Join(lower, ":")}
	if o.Upper != "" {
		options = append(options, "upperdir="+escape(rel(o.Upper)), "workdir="+escape(rel(o.Work)))
	}
	options = append(options, b.overlayFlags(o)...)
	text := strings.Join(options, ",")
	if len(text) >= 4096 {
		b.Do(wire.OpFail, "mount an image with so many layers, which needs Linux 6.7", 0, int(unix.E2BIG))
	} else {
		b.Call(what, unix.SYS_MOUNT, "overlay", at, "overlay", 0, text)
		b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).To(b.root)
		b.setattr("make the root private", b.root, 0, attr{propagation: unix.MS_PRIVATE})
	}
	b.Land(done)
	return nil
}

func (b *builder) overlayFlags(o *Overlay) []string {
	var flags []string
	if o.UserXattr {
		flags = append(flags, "userxattr")
	}
	if o.Volatile {
		flags = append(flags, "volatile")
	}
	return flags
}

// escape protects what separates overlay's options.
func escape(p string) string {
	return strings.NewReplacer(`\`, `\\`, ":", `\:`, ",", `\,`).Replace(p)
}

// commonDir returns the deepest directory above all paths; "" if one is relative.
func commonDir(paths []string) string {
	if !path.IsAbs(paths[0]) {
		return ""
	}
	base := path.Dir(path.Clean(paths[0]))
	for _, p := range paths[1:] {
		if !path.IsAbs(p) {
			return ""
		}
		for base != "/" && !strings.HasPrefix(path.Clean(p), base+"/") {
			base = path.Dir(base)
		}
	}
	return base
}

// openMasks opens what hides files and directories: the host's null device,
// looked at closely, and an empty directory.
func (b *builder) openMasks() {
	if len(b.spec.Linux.MaskedPaths) == 0 {
		return
	}
	const what = "open the null device"
	b.null = b.NewReg()
	b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, "/dev/null", unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC).To(b.null)
	b.statx(what, b.null)
	r := b.NewReg()
	const rdev = 128                                                // offsetof(struct statx, stx_rdev_major), then the minor
	b.Do(wire.OpLoad, what, 0, b.stat.Plus(rdev), 8).To(r)          // little-endian on all we run on
	ok := b.Jump(wire.OpJumpEq, r, int64(1)|int64(3)<<32)           // 1:3
	b.Do(wire.OpFail, "check the null device", 0, int(unix.ENODEV)) // not a device, or another
	b.Land(ok)
	m := mount{fstype: "tmpfs", source: "tmpfs", attr: mountAttr{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC},
		data: []string{"size=0", "nr_inodes=1", "mode=755"}, what: "make an empty directory"}
	b.openFS(&m)
	b.empty = m.fd
}

// placeMasks gives the empty directory a place in this namespace, below the
// root: only a mount that has one can be cloned before Linux 6.15.
func (b *builder) placeMasks(at string) {
	if b.empty.Kind == wire.ArgReg {
		b.Call("make an empty directory", unix.SYS_MOVE_MOUNT, b.empty, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
}

// system hides and protects what the kernel offers, and sets what is the
// container's to set.
func (b *builder) system() {
	l := b.spec.Linux
	for _, p := range l.MaskedPaths {
		b.mask(p)
	}
	for _, p := range sortedKeys(l.Sysctl) {
		b.sysctl(p, l.Sysctl[p])
	}
	for _, p := range l.ReadonlyPaths {
		b.readonly(p)
	}
	if h := b.spec.Hostname; h != "" {
		b.Call("set the host name", unix.SYS_SETHOSTNAME, h, len(h))
	}
	if d := b.spec.Domainname; d != "" {
		b.Call("set the domain name", unix.SYS_SETDOMAINNAME, d, len(d))
	}
}

// missing jumps when register r says that there is no such file. The jumps are to
// be landed behind what needs the file.
func (b *builder) missing(r wire.Arg) []int {
	return []int{b.Jump(wire.OpJumpEq, r, -int(unix.ENOENT)), b.Jump(wire.OpJumpEq, r, -int(unix.ENOTDIR))}
}

func (b *builder) mask(p string) {
	what := "mask " + p
	defer b.Free(b.Mark())
	at := b.lookup(what, b.root, p, unix.O_PATH, inRoot, uint16(unix.ENOENT), uint16(unix.ENOTDIR))
	skip := b.missing(at)
	cover := b.NewReg()
	b.Do(wire.OpSet, what, 0, b.null).To(cover)
	file := b.Jump(wire.OpJumpNe, b.typeOf(what, at), unix.S_IFDIR)
	b.Do(wire.OpSet, what, 0, b.empty).To(cover)
	b.Land(file)
	b.Call(what, unix.SYS_OPEN_TREE, cover, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(cover)
	// The null device is the host's: its mode and owner are not the container's to change.
	b.setattr(what, cover, 0, attr{set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC})
	b.Call(what, unix.SYS_MOVE_MOUNT, cover, "", at, "", movedByFD)
	b.close(cover)
	b.close(at)
	for _, s := range skip {
		b.Land(s)
	}
}

func (b *builder) readonly(p string) {
	what := "make " + p + " read-only"
	defer b.Free(b.Mark())
	at := b.lookup(what, b.root, p, unix.O_PATH, inRoot, uint16(unix.ENOENT), uint16(unix.ENOTDIR))
	skip := b.missing(at)
	cover := b.NewReg()
	b.Call(what, unix.SYS_OPEN_TREE, at, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(cover)
	b.setattr(what, cover, unix.AT_RECURSIVE, attr{set: unix.MOUNT_ATTR_RDONLY})
	b.Call(what, unix.SYS_MOVE_MOUNT, cover, "", at, "", movedByFD)
	b.close(cover)
	b.close(at)
	for _, s := range skip {
		b.Land(s)
	}
}

// sysctl writes below the procfs that we mounted ourselves, before anything of
// it is read-only; without one, below the one that the launcher sees.
func (b *builder) sysctl(name, value string) {
	what := "set the sysctl " + name
	defer b.Free(b.Mark())
	dir := b.procs
	if dir.Kind != wire.ArgReg || b.onlyPids() {
		dir = b.lookup(what, wire.Num(unix.AT_FDCWD), "/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	}
	// A dot separates, unless a slash comes first: then a dot is part of a name.
	file := name
	if i := strings.IndexAny(name, "./"); i < 0 || name[i] == '.' {
		file = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	const safe = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV
	fd := b.lookup(what, dir, "sys/"+file, unix.O_WRONLY, safe)
	b.Call(what, unix.SYS_WRITE, fd, value, len(value))
	b.close(fd)
}

// onlyPids says that our procfs has no sysctls.
func (b *builder) onlyPids() bool {
	return slices.ContainsFunc(b.spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" && slices.Contains(m.Options, "subset=pid") })
}

// pivot makes the root the root, and drops the host's tree.
func (b *builder) pivot() {
	const what = "change the root"
	prop, rec := propagation(b.spec.Linux.RootfsPropagation)
	if b.spec.Root.Readonly {
		if path.Clean(b.proc.Cwd) != "/" {
			b.close(b.workdir()) // made while it can be
		}
		b.setattr("make the root read-only", b.root, 0, attr{set: unix.MOUNT_ATTR_RDONLY})
	}
	b.Call(what, unix.SYS_FCHDIR, b.root)
	switch {
	case b.ns.created&unix.CLONE_NEWNS == 0: // the namespace's root is not ours to change
		b.Call(what, unix.SYS_CHROOT, ".")
	case b.o.NoPivot:
		b.Call(what, unix.SYS_MOUNT, ".", "/", 0, unix.MS_MOVE, 0)
		b.Call(what, unix.SYS_CHROOT, ".")
	default:
		b.Call(what, unix.SYS_PIVOT_ROOT, ".", ".")
		b.Call(what, unix.SYS_UMOUNT2, ".", unix.MNT_DETACH) // the old root lies on top of the new one now
	}
	b.Call(what, unix.SYS_CHDIR, "/")
	if prop != 0 && prop != unix.MS_PRIVATE {
		b.setattr("set the root's propagation", b.root, rec, attr{propagation: prop})
	}
}

// propagation reads an option; 0 if it is none.
func propagation(o string) (flag uint64, recursive int) {
	if r, ok := strings.CutPrefix(o, "r"); ok {
		if flag, _ := propagation(r); flag != 0 && !strings.HasPrefix(r, "r") {
			return flag, unix.AT_RECURSIVE
		}
	}
	switch o {
	case "private":
		return unix.MS_PRIVATE, 0
	case "slave":
		return unix.MS_SLAVE, 0
	case "shared":
		return unix.MS_SHARED, 0
	case "unbindable":
		return unix.MS_UNBINDABLE, 0
	}
	return 0, 0
}

// ownDev says that /dev is ours to fill: not a directory of the host's.
func (b *builder) ownDev() bool {
	for _, m := range b.spec.Mounts {
		if path.Clean(m.Destination) == "/dev" && isBind(m) {
			return false
		}
	}
	return true
}

func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}
