// Package lower turns an OCI spec into a [wire.Plan]: the system calls that make
// the container, in order. All Linux numbers of a start are in this package.
//
// The plan resolves every path below the container's root with openat2, scoped
// to that root and without magic links, and acts on descriptors: an image's
// symbolic links lead nowhere else. What is mounted (sources of binds, file
// systems, the host's null device for masking) is opened as a detached mount
// before the root is looked at.
package lower

import (
	"fmt"
	"path"
	"slices"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options are what the lowering must know besides the spec.
type Options struct {
	Overlay *Overlay // the root file system; nil: the directory spec.Root.Path
	Place   string   // where it is mounted until it is the root; "": at spec.Root.Path

	Seccomp      []byte // struct sock_filter, one after another; empty: no filter
	SeccompFlags uint32 // SECCOMP_FILTER_FLAG_*

	Rootless bool // containers live in an ordinary user's namespace
	InUserNS bool // the plan starts inside a user namespace: no mknod, no lowering of the OOM score
	SingleID bool // only one id is mapped there: no setgroups, no gid= of a device file system

	Files []File // hosts, hostname, resolv.conf
	// Trees and Memory are further mounts, for the commands of a build.
	Trees  []Tree
	Memory []Memory

	Init bool // a reaper is pid 1, and the process its child

	// OuterProc allows to bind the /proc that is there already where the kernel
	// refuses a new one, as it does in a container whose own /proc is masked.
	OuterProc bool

	// CgroupProcs are the files (cgroup.procs, tasks) that the container joins by.
	CgroupProcs []string
	// Joined are the slots with the pidfd of a process whose namespace is joined: its
	// path in the spec could be another's by the time that it is opened.
	Joined map[specs.LinuxNamespaceType]int

	// IDMapped are the slots with the user namespaces by which mounts are mapped, by
	// the mounts' targets.
	IDMapped map[string]int

	// Cgroups is what a mount of type cgroup shows; nil: what [readCgroupView] finds.
	Cgroups []CgroupMount

	NoGate bool // do not wait for Proc.Release before the program is executed

	// Detached is set for a container without a monitor, as an OCI runtime makes
	// it: nothing kills it when its parent ends, and once it is ready (Proc.Release
	// lets it know that the parent has noted it) it waits for a byte on [SlotStart].
	Detached bool
	// CgroupGate adds a gate before anything else, for a parent who moves the process
	// into its cgroup.
	CgroupGate bool
	// HookGate adds a gate where the mounts are made and the root is still the host's.
	HookGate bool
	// CopyUp allows the mount option tmpcopyup: the parent copies, at that gate.
	CopyUp bool
	// SharedMounts allows a spec without a new mount namespace: the mounts below
	// its root stay for the caller to take away.
	SharedMounts bool
	// EarlySources opens what is mounted before a new user namespace is made: its
	// root may not go where only the host's root may.
	EarlySources bool
	NoPivot      bool // move the root over the old one instead: for a root on a ramfs
	// KeepKeyring leaves the process in its parent's session keyring.
	KeepKeyring bool
	PreserveFDs int // so many descriptors from 3 on are the program's, in slots from [SlotPreserved] on

	// Warn is told what the spec asks for and what is left out; may be nil.
	Warn func(string)
}

// Overlay is a root file system made of layers.
type Overlay struct {
	Lower       []string // absolute, top first
	Upper, Work string   // absolute; both empty: read-only
	UserXattr   bool     // keep overlay's notes in user.*: needed inside a user namespace
	Volatile    bool     // never sync; a crash of the machine spoils Upper
}

// File is a host's file that the container gets at Target, writable.
type File struct{ Target, Source string }

// CgroupMount is one cgroup directory that the container sees.
type CgroupMount struct {
	Name   string // below the mount's target: "memory", "cpu,cpuacct"; "" if it is the target itself
	Source string // the directory on the host
	Link   string // instead of Source: a symbolic link to this name
	Shared bool   // it is not the container's own
}

// ExecOptions are what the lowering of an exec must know.
type ExecOptions struct {
	Seccomp      []byte
	SeccompFlags uint32
	InUserNS     bool
	SingleID     bool
	CgroupProcs  []string // of the container

	Detached    bool // as in [Options]
	PreserveFDs int
}

// The slots of a detached container.
const (
	// SlotStart is a FIFO, open for reading and writing: a byte in it starts the
	// program, and that all readers are gone says that it runs.
	SlotStart = wire.SlotUser0
	// SlotPreserved is the first of the descriptors that the program gets.
	SlotPreserved = wire.SlotUser0 + 1
	// MaxPreserved is how many of those there can be.
	MaxPreserved = wire.NumSlots - SlotPreserved
)

// Run returns the plan of a container's first process. It is gated unless
// NoGate: Proc.Release lets it execute its program.
func Run(spec *specs.Spec, o Options) (*wire.Plan, error) {
	proc := spec.Process
	if proc == nil && o.Detached {
		proc = &specs.Process{Cwd: "/"} // there may be a container without one; it cannot be started
	}
	if err := check(spec, proc, o.Detached); err != nil {
		return nil, err
	}
	ns, err := namespacesOf(spec)
	if err != nil {
		return nil, err
	}
	if err := ns.sharesMounts(o.SharedMounts); err != nil {
		return nil, err
	}
	if o.Cgroups == nil && slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return m.Type == "cgroup" }) {
		if o.Cgroups, err = readCgroupView(o.CgroupProcs); err != nil {
			return nil, err
		}
	}
	b := &builder{spec: spec, o: o, ns: ns, proc: proc}
	b.begin()
	if o.CgroupGate {
		b.Gate(unix.SYS_WRITE, unix.SYS_READ)
	}
	mounts, err := b.mountList()
	if err != nil {
		return nil, err
	}
	if err := b.enterNew(mounts); err != nil {
		return nil, err
	}
	prefix := b.Len()
	if err := b.rootfs(mounts); err != nil {
		return nil, err
	}
	if err := b.tty(); err != nil {
		return nil, err
	}
	if o.HookGate {
		b.Gate(unix.SYS_WRITE, unix.SYS_READ)
	}
	b.system()
	b.pivot()
	if !o.NoGate && !o.Detached {
		b.Gate(unix.SYS_WRITE, unix.SYS_READ)
	}
	if err := b.process(o.Seccomp, o.SeccompFlags, o.SingleID); err != nil {
		return nil, err
	}
	if o.Init {
		b.startReaper()
	}
	b.exec()
	p, err := b.Plan()
	if err != nil {
		return nil, errs.E("lower the container", errs.Internal, err)
	}
	b.finish(p, prefix)
	return p, nil
}

// Exec returns the plan of a further process, proc, in the running container
// that spec describes. The container's first process is [wire.SlotInit].
func Exec(spec *specs.Spec, proc *specs.Process, o ExecOptions) (*wire.Plan, error) {
	if err := check(spec, proc, false); err != nil {
		return nil, err
	}
	ns, err := namespacesOf(spec)
	if err != nil {
		return nil, err
	}
	if err := ns.sharesMounts(false); err != nil {
		return nil, errs.E("exec", errs.Unsupported, err) // nothing says where the container's root is
	}
	b := &builder{spec: spec, ns: ns, proc: proc, running: true,
		o: Options{InUserNS: o.InUserNS, SingleID: o.SingleID, CgroupProcs: o.CgroupProcs,
			Detached: o.Detached, PreserveFDs: o.PreserveFDs}}
	b.begin()
	b.enterRunning()
	prefix := b.Len()
	b.openRoot()
	if err := b.tty(); err != nil {
		return nil, err
	}
	if err := b.process(o.Seccomp, o.SeccompFlags, o.SingleID); err != nil {
		return nil, err
	}
	b.exec()
	p, err := b.Plan()
	if err != nil {
		return nil, errs.E("lower the process", errs.Internal, err)
	}
	p.Prefix, p.RestoreNofile = prefix, !b.limitsFiles()
	return p, nil
}

// finish sets what is not a step.
func (b *builder) finish(p *wire.Plan, prefix int) {
	p.Prefix, p.RestoreNofile = prefix, !b.limitsFiles()
	p.CloneFlags = b.cloneFlags()
	if b.ns.created&unix.CLONE_NEWUSER != 0 {
		p.UIDs, p.GIDs = idMaps(b.spec.Linux.UIDMappings), idMaps(b.spec.Linux.GIDMappings)
		if !b.early() {
			p.CgroupFiles = b.o.CgroupProcs
		}
	}
}

func idMaps(in []specs.LinuxIDMapping) []wire.IDMap {
	out := make([]wire.IDMap, len(in))
	for i, m := range in {
		out[i] = wire.IDMap{Inside: m.ContainerID, Outside: m.HostID, Count: m.Size}
	}
	return out
}

// check refuses what no plan can do.
func check(spec *specs.Spec, p *specs.Process, detached bool) error {
	switch {
	case !detached && (p == nil || len(p.Args) == 0 || p.Args[0] == ""):
		return errs.New(errs.Invalid, "no command specified")
	case !path.IsAbs(p.Cwd):
		return errs.New(errs.Invalid, fmt.Sprintf("the working directory %q is not absolute", p.Cwd))
	case spec.Root == nil || spec.Linux == nil:
		return errs.New(errs.Invalid, "the spec has no root or no linux section")
	}
	return nil
}

// builder writes one plan.
type builder struct {
	wire.Builder
	spec *specs.Spec
	proc *specs.Process
	o    Options
	ns   namespaces

	running bool // the container is there already: this is an exec

	root  wire.Arg // descriptor of the container's root
	pts   wire.Arg // of its devpts, if it mounts one
	procs wire.Arg // of its procfs, if it mounts one
	slave wire.Arg // of its terminal
	reap  reaper

	null, empty wire.Arg // what masks files and directories
	devices     []device // opened already, or to be made
	stat        wire.Arg // room for a struct statx
}

func (b *builder) warn(text string) {
	if b.o.Warn != nil {
		b.o.Warn(text)
	}
}
