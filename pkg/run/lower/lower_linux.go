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
	"errors"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options are what the lowering must know besides the spec.
type Options struct {
	Overlay *Overlay // the root file system; nil: the directory spec.Root.Path

	Seccomp      []byte // struct sock_filter, one after another; empty: no filter
	SeccompFlags uint32 // SECCOMP_FILTER_FLAG_*

	Rootless bool // containers live in an ordinary user's namespace
	InUserNS bool // the plan starts inside a user namespace: no mknod, no lowering of the OOM score
	SingleID bool // only one id is mapped there: no setgroups, no gid= of a device file system

	Files []File // hosts, hostname, resolv.conf
	Init  bool   // a reaper is pid 1, and the process its child

	// CgroupProcs are the cgroup.procs files that the container joins by.
	CgroupProcs []string
	// Cgroups is what a mount of type cgroup shows; nil: what [CgroupView] finds.
	Cgroups []CgroupMount

	NoGate bool // do not wait for Proc.Release before the program is executed

	// Warn is told what the spec asks for and what is left out; may be nil.
	Warn func(string)
}

// Overlay is a root file system made of layers.
type Overlay struct {
	Lower       []string // absolute, top first
	Upper, Work string   // absolute
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
}

// ExecOptions are what the lowering of an exec must know.
type ExecOptions struct {
	Seccomp      []byte
	SeccompFlags uint32
	InUserNS     bool
	SingleID     bool
	CgroupProcs  []string // of the container
}

// Run returns the plan of a container's first process. It is gated unless
// NoGate: Proc.Release lets it execute its program.
func Run(spec *specs.Spec, o Options) (*wire.Plan, error) {
	return nil, errs.E("lower the container", errs.Unsupported, errors.New("not written yet"))
}

// Exec returns the plan of a further process, proc, in the running container
// that spec describes. The container's first process is [wire.SlotInit].
func Exec(spec *specs.Spec, proc *specs.Process, o ExecOptions) (*wire.Plan, error) {
	return nil, errs.E("lower the process", errs.Unsupported, errors.New("not written yet"))
}
