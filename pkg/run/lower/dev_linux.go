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

// device is a node to make, or, in a user namespace, the host's to bind.
type device struct {
	specs.LinuxDevice
	fd wire.Arg // the host's node
}

// defaultDevices are what every container has, as the OCI spec wants.
func defaultDevices() []specs.LinuxDevice {
	char := func(name string, major, minor int64) specs.LinuxDevice {
		return specs.LinuxDevice{Path: "/dev/" + name, Type: "c", Major: major, Minor: minor}
	}
	return []specs.LinuxDevice{char("null", 1, 3), char("zero", 1, 5), char("full", 1, 7), char("random", 1, 8), char("urandom", 1, 9), char("tty", 5, 0)}
}

// openDevices opens the host's nodes where the kernel lets us make none.
func (b *builder) openDevices() {
	if !b.ownDev() {
		return
	}
	own := b.spec.Linux.Devices
	var list []device
	for _, d := range slices.Concat(defaultDevices(), own) {
		d.Path = path.Clean(d.Path)
		if i := slices.IndexFunc(list, func(have device) bool { return have.Path == d.Path }); i >= 0 {
			list[i].LinuxDevice = d
			continue
		}
		list = append(list, device{LinuxDevice: d})
	}
	if b.o.InUserNS {
		for i := range list {
			d := &list[i]
			if d.Type == "p" {
				continue // made, not bound
			}
			d.fd = b.NewReg()
			b.Call("open the host's "+d.Path, unix.SYS_OPEN_TREE, unix.AT_FDCWD, d.Path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(d.fd)
			b.setattr("open the host's "+d.Path, d.fd, 0, attr{set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, propagation: unix.MS_PRIVATE})
		}
	}
	b.devices = list
}

// makeDevices fills /dev.
func (b *builder) makeDevices(list []device) {
	defer b.Free(b.Mark())
	const what = "open /dev"
	dev := b.target(what, "/dev", aDir, wire.Arg{}, noLinks)
	for _, d := range list {
		b.makeDevice(d, dev)
	}
	for _, l := range [][2]string{{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
		{"/proc/kcore", "core"}, {"pts/ptmx", "ptmx"}} {
		b.Call("make /dev/"+l[1], unix.SYS_SYMLINKAT, l[0], dev, l[1]).Expect(uint16(unix.EEXIST))
	}
	b.close(dev)
}

func (b *builder) makeDevice(d device, dev wire.Arg) {
	what := "make the device " + d.Path
	defer b.Free(b.Mark())
	if d.fd.Kind == wire.ArgReg {
		at := b.target(what, d.Path, aFile, wire.Arg{}, inRoot)
		b.Call(what, unix.SYS_MOVE_MOUNT, d.fd, "", at, "", movedByFD)
		b.close(at)
		b.close(d.fd)
		return
	}
	dir, name := dev, strings.TrimPrefix(d.Path, "/dev/")
	if strings.Contains(name, "/") {
		dir, name = b.target(what, path.Dir(d.Path), aDir, wire.Arg{}, inRoot), path.Base(d.Path)
	}
	mode := uint32(0o666)
	if d.FileMode != nil {
		mode = uint32(*d.FileMode) & 0o7777
	}
	number := unix.Mkdev(uint32(d.Major), uint32(d.Minor))
	b.Call(what, unix.SYS_MKNODAT, dir, name, deviceType(d.Type)|mode, number).Expect(uint16(unix.EEXIST))
	// One that is there already must be the same, or it would pass for ours.
	at := b.NewReg()
	b.Call(what, unix.SYS_OPENAT, dir, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC).To(at)
	same := b.Jump(wire.OpJumpEq, b.typeOf(what, at), deviceType(d.Type))
	b.Do(wire.OpFail, what+": something else is there", 0, int(unix.EEXIST))
	b.Land(same)
	if d.Type != "p" && d.Type != "" {
		r := b.NewReg()
		b.Do(wire.OpLoad, what, 0, b.stat.Plus(128), 8).To(r)
		same = b.Jump(wire.OpJumpEq, r, d.Major|d.Minor<<32)
		b.Do(wire.OpFail, what+": another device is there", 0, int(unix.EEXIST))
		b.Land(same)
	}
	if d.UID != nil || d.GID != nil {
		var uid, gid uint32
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		b.Call(what, unix.SYS_FCHOWNAT, at, "", uid, gid, unix.AT_EMPTY_PATH)
	}
	b.close(at)
}

func deviceType(t string) uint32 {
	switch t {
	case "b":
		return unix.S_IFBLK
	case "p":
		return unix.S_IFIFO
	}
	return unix.S_IFCHR
}

// tty makes the container's terminal in its own devpts, and hands the master
// over. The slave and /dev/console are reached by descriptor only: a path inside
// could have been swapped.
func (b *builder) tty() error {
	if !b.proc.Terminal {
		return nil
	}
	const what = "make the terminal"
	const devptsMagic = 0x1cd1
	master := b.NewReg()
	if b.pts.Kind == wire.ArgReg {
		b.Call(what, unix.SYS_OPENAT, b.pts, "ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).To(master)
	} else {
		b.lookupInto(master, what, b.root, "/dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, noLinks)
		b.Call(what, unix.SYS_FSTATFS, master, b.stat)
		r := b.NewReg()
		b.Do(wire.OpLoad, what, 0, b.stat, 4).To(r)
		ok := b.Jump(wire.OpJumpEq, r, devptsMagic)
		b.Do(wire.OpFail, "make the terminal: the container's /dev/pts is none", 0, int(unix.ENOTTY))
		b.Land(ok)
	}
	b.Call(what, unix.SYS_IOCTL, master, unix.TIOCSPTLCK, b.Bytes(make([]byte, 8)))
	b.slave = b.NewReg()
	b.Call(what, unix.SYS_IOCTL, master, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC).To(b.slave)
	if s := b.proc.ConsoleSize; s != nil {
		if s.Height > 0xffff || s.Width > 0xffff {
			return errs.New(errs.Invalid, "the terminal's size is out of range")
		}
		b.Call(what, unix.SYS_IOCTL, master, unix.TIOCSWINSZ, b.Bytes([]byte{byte(s.Height), byte(s.Height >> 8), byte(s.Width), byte(s.Width >> 8), 0, 0, 0, 0}))
	}
	b.sendMaster(master)
	b.close(master)
	if b.pts.Kind == wire.ArgReg && b.ownDev() { // a new container
		b.console()
	}
	return nil
}

func (b *builder) sendMaster(master wire.Arg) {
	const what = "hand over the terminal"
	byteAt := b.Bytes([]byte{wire.MsgConsole})
	iov := b.Words(byteAt, wire.Num(1))
	const level, rights = unix.SOL_SOCKET, unix.SCM_RIGHTS
	control := b.Words(wire.Num(20), wire.Num(level|rights<<32), wire.Num(0)) // struct cmsghdr and one descriptor
	b.Do(wire.OpStore, what, 0, control.Plus(16), master, 4)
	msg := b.Words(wire.Num(0), wire.Num(0), iov, wire.Num(1), control, wire.Num(24), wire.Num(0))
	b.Call(what, unix.SYS_SENDMSG, wire.InSlot(wire.SlotConsole), msg, unix.MSG_NOSIGNAL)
}

func (b *builder) console() {
	const what = "make /dev/console"
	defer b.Free(b.Mark())
	at := b.target(what, "/dev/console", aFile, wire.Arg{}, noLinks)
	tree := b.NewReg()
	b.Call(what, unix.SYS_OPEN_TREE, b.slave, "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC).To(tree)
	b.Call(what, unix.SYS_MOVE_MOUNT, tree, "", at, "", movedByFD)
	b.close(tree)
	b.close(at)
}
