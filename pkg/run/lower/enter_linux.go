package lower

import (
	"fmt"
	"strconv"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaces are those that a container has of its own or shares by path; all
// others are the launcher's.
type namespaces struct {
	created uint64 // CLONE_NEW* flags
	joined  []join // the user namespace first: it owns the others
	all     uint64
}

type join struct {
	flag uint64
	kind specs.LinuxNamespaceType
	path string
}

func namespacesOf(spec *specs.Spec) (namespaces, error) {
	var n namespaces
	for _, ns := range spec.Linux.Namespaces {
		flag, ok := nsFlag(ns.Type)
		switch {
		case !ok:
			return n, errs.New(errs.Unsupported, fmt.Sprintf("namespaces of type %q are not supported", ns.Type))
		case n.all&flag != 0:
			return n, errs.New(errs.Invalid, fmt.Sprintf("the namespace %q is given twice", ns.Type))
		case ns.Path == "":
			n.created |= flag
		default:
			j := join{flag, ns.Type, ns.Path}
			if flag == unix.CLONE_NEWUSER {
				n.joined = append([]join{j}, n.joined...)
			} else {
				n.joined = append(n.joined, j)
			}
		}
		n.all |= flag
	}
	if spec.Hostname != "" && n.all&unix.CLONE_NEWUTS == 0 {
		return n, errs.New(errs.Invalid, "a host name needs a UTS namespace")
	}
	return n, nil
}

func nsFlag(t specs.LinuxNamespaceType) (uint64, bool) {
	switch t {
	case specs.PIDNamespace:
		return unix.CLONE_NEWPID, true
	case specs.NetworkNamespace:
		return unix.CLONE_NEWNET, true
	case specs.MountNamespace:
		return unix.CLONE_NEWNS, true
	case specs.IPCNamespace:
		return unix.CLONE_NEWIPC, true
	case specs.UTSNamespace:
		return unix.CLONE_NEWUTS, true
	case specs.UserNamespace:
		return unix.CLONE_NEWUSER, true
	case specs.CgroupNamespace:
		return unix.CLONE_NEWCGROUP, true
	}
	return 0, false
}

// flagsOfClone are the new namespaces but that of cgroups, which must be made by
// a process that is in its cgroup already: that is its root.
func (n namespaces) flagsOfClone() uint64 { return n.created &^ unix.CLONE_NEWCGROUP }

// forks says that a second clone is needed: a pid namespace that was joined takes
// effect for children only, and a joined namespace must be entered with the
// rights that a new user namespace takes away.
func (n namespaces) forks() bool {
	for _, j := range n.joined {
		if j.flag == unix.CLONE_NEWPID || j.flag == unix.CLONE_NEWUSER || n.created&unix.CLONE_NEWUSER != 0 {
			return true
		}
	}
	return false
}

// early says that the sources of mounts are opened before the user namespace is
// made, which a second clone does then.
func (b *builder) early() bool {
	ns := b.ns.created
	if b.o.Overlay != nil {
		ns = b.ns.all
	}
	return b.o.EarlySources && ns&unix.CLONE_NEWUSER != 0
}

func (b *builder) forks() bool { return b.ns.forks() || b.early() }

func (b *builder) cloneFlags() uint64 {
	if b.forks() {
		return 0
	}
	return b.ns.flagsOfClone()
}

// begin is what a plan starts with, still in the launcher's namespaces where it
// matters.
func (b *builder) begin() {
	b.stat = b.Bytes(make([]byte, 256))
	b.dieWithParent()
	b.Call("create files with the modes given", unix.SYS_UMASK, 0)
	const joinSession = 1 // KEYCTL_JOIN_SESSION_KEYRING; a host without keys has none to leak
	if !b.o.KeepKeyring {
		b.Call("leave the session keyring", unix.SYS_KEYCTL, joinSession, 0).Ignore()
	}
	if adj := b.proc.OOMScoreAdj; adj != nil {
		b.writeFile("set the OOM score", wire.Num(unix.AT_FDCWD), "/proc/self/oom_score_adj", strconv.Itoa(*adj))
	}
}

// dieWithParent binds the container's life to its monitor's.
func (b *builder) dieWithParent() {
	if !b.o.Detached {
		b.Call("die with the parent", unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, int(unix.SIGKILL))
	}
}

// sharesMounts refuses a container whose mounts would be seen by others, unless
// its author takes them away again.
func (n namespaces) sharesMounts(may bool) error {
	switch {
	case n.created&unix.CLONE_NEWNS != 0 || may:
		return nil
	case n.all&unix.CLONE_NEWNS != 0:
		return errs.New(errs.Unsupported, "a mount namespace cannot be shared by path")
	}
	return errs.New(errs.Invalid, "a container without a mount namespace would change the host's mounts")
}

// session makes the process the leader of a session of its own, without a
// terminal: once it is the process that will execute the program.
func (b *builder) session() { b.Call("start a session", unix.SYS_SETSID) }

// joinCgroups moves the process into its cgroups, by their paths on the host.
func (b *builder) joinCgroups() {
	for _, f := range b.o.CgroupProcs {
		b.writeFile("join the cgroup "+f, wire.Num(unix.AT_FDCWD), f, "0")
	}
}

func (b *builder) writeFile(what string, dir wire.Arg, name, text string) {
	m := b.Mark()
	fd := b.NewReg()
	b.Call(what, unix.SYS_OPENAT, dir, name, unix.O_WRONLY|unix.O_CLOEXEC).To(fd)
	b.Call(what, unix.SYS_WRITE, fd, text, len(text))
	b.close(fd)
	b.Free(m)
}

func (b *builder) close(fd wire.Arg) { b.Call("close", unix.SYS_CLOSE, fd).Ignore() }

// enterNew makes and joins the namespaces of a new container.
func (b *builder) enterNew(mounts []mount) error {
	newUser := b.ns.created&unix.CLONE_NEWUSER != 0
	if !newUser || b.early() { // else the launcher does it: inside, the files are somebody else's
		b.joinCgroups()
	}
	if b.early() {
		if err := b.openSources(mounts); err != nil {
			return err
		}
	}
	if b.forks() && !newUser {
		// Before anybody in a shared pid namespace can see the child.
		b.Call("hide from the container", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	}
	for _, j := range b.ns.joined {
		what := "join the " + string(j.kind) + " namespace " + j.path
		if slot, ok := b.o.Joined[j.kind]; ok {
			b.Call(what, unix.SYS_SETNS, wire.InSlot(slot), j.flag)
			continue
		}
		fd := b.NewReg()
		b.Call(what, unix.SYS_OPENAT, unix.AT_FDCWD, j.path, unix.O_RDONLY|unix.O_CLOEXEC).To(fd)
		b.Call(what, unix.SYS_SETNS, fd, j.flag)
		b.close(fd)
	}
	if b.forks() {
		flags := b.ns.flagsOfClone()
		if b.early() {
			flags &^= unix.CLONE_NEWIPC // its message queues are to be root's of the new user namespace
		}
		b.Do(wire.OpFork, "make the namespaces", 0, flags)
		b.dieWithParent()
	}
	b.session()
	if newUser {
		b.WaitForMap(unix.SYS_WRITE, unix.SYS_READ)
	}
	if newUser || b.ns.all&unix.CLONE_NEWUSER != 0 {
		b.becomeRoot()
	}
	if b.early() && b.ns.created&unix.CLONE_NEWIPC != 0 {
		b.Call("make an IPC namespace", unix.SYS_UNSHARE, unix.CLONE_NEWIPC)
	}
	if !b.forks() || newUser {
		// Only now: a process that hides has its id map written by nobody.
		b.Call("hide from the container", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	}
	if b.ns.created&unix.CLONE_NEWCGROUP != 0 {
		b.Call("make a cgroup namespace", unix.SYS_UNSHARE, unix.CLONE_NEWCGROUP)
	}
	if b.ns.created&unix.CLONE_NEWNET != 0 {
		b.loopbackUp()
	}
	return nil
}

func (b *builder) becomeRoot() {
	b.Call("become group 0 of the user namespace", unix.SYS_SETRESGID, 0, 0, 0)
	b.Call("become user 0 of the user namespace", unix.SYS_SETRESUID, 0, 0, 0)
	b.dieWithParent()
}

// loopbackUp brings up lo, which a new network namespace has down.
func (b *builder) loopbackUp() {
	ifreq := make([]byte, 40)
	copy(ifreq, "lo")
	ifreq[16] = unix.IFF_UP | unix.IFF_RUNNING
	req, fd := b.Bytes(ifreq), b.NewReg()
	b.Call("bring up the loopback", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0).To(fd)
	b.Call("bring up the loopback", unix.SYS_IOCTL, fd, unix.SIOCSIFFLAGS, req)
	b.close(fd)
}

// enterRunning joins the namespaces of a container that runs.
func (b *builder) enterRunning() {
	b.joinCgroups()
	b.Call("hide from the container", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0)
	b.Call("join the container's namespaces", unix.SYS_SETNS, wire.InSlot(wire.SlotInit), b.ns.all)
	if b.ns.all&unix.CLONE_NEWUSER != 0 {
		b.becomeRoot()
	}
	if b.ns.all&unix.CLONE_NEWPID != 0 {
		b.Do(wire.OpFork, "enter the pid namespace", 0, 0)
		b.dieWithParent()
	}
	b.session()
}

// openRoot opens the root that was joined with the mount namespace.
func (b *builder) openRoot() {
	b.root = b.NewReg()
	b.Call("open the container's root", unix.SYS_OPENAT, unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC).To(b.root)
}
