package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
)

// ExecOptions say what to run in a container.
type ExecOptions struct {
	ID string

	// Process is a file with the process in the spec's form; "" takes the
	// container's own, changed by what follows.
	Process                   string
	Args                      []string
	Terminal, NoNewPrivileges bool
	Cwd, User                 string
	Env, Caps                 []string
	Groups                    []uint32
	Apparmor, Label           string
	SubCgroup                 string // below the container's
	IgnorePaused              bool

	PidFile, ConsoleSocket string
	PreserveFDs            int
	Stdio                  [3]*os.File
}

// Exec starts a process in a running container. It is this program's child.
func (r *Runtime) Exec(ctx context.Context, o ExecOptions) (*Process, error) {
	c, err := r.load(o.ID)
	if err != nil {
		return nil, err
	}
	switch status := c.Status(); {
	case status == "paused" && !o.IgnorePaused:
		return nil, errs.New(errs.Conflict, fmt.Sprintf("cannot exec in container %q: it is paused", o.ID))
	case status == specs.StateStopped || status == specs.StateCreating:
		return nil, errs.New(errs.Conflict, fmt.Sprintf("cannot exec in container %q: it is %s", o.ID, status))
	}
	spec, err := c.spec()
	if err != nil {
		return nil, err
	}
	proc, err := o.process(spec)
	if err != nil {
		return nil, err
	}
	setHome(proc, c.rec.Rootfs)
	r.clamp(proc)
	if o.ConsoleSocket != "" && !proc.Terminal {
		return nil, errs.New(errs.Invalid, "a console socket is given, but the process wants no terminal")
	}
	filter, err := filterOf(spec)
	if err != nil {
		return nil, err
	}
	procs, err := c.procs(o.SubCgroup)
	if err != nil {
		return nil, err
	}
	plan, err := lower.Exec(spec, proc, lower.ExecOptions{
		Seccomp: filter.Code, SeccompFlags: filter.Flags,
		InUserNS: inUserNS() || os.Geteuid() != 0, SingleID: groupsDenied(strconv.Itoa(c.rec.PID)), CgroupProcs: procs,
		Detached: true, PreserveFDs: o.PreserveFDs,
	})
	if err != nil {
		return nil, err
	}
	pidfd, err := sys.OpenProcess(c.rec.PID, c.rec.PIDStart)
	if errors.Is(err, syscall.ESRCH) {
		return nil, errs.New(errs.Conflict, fmt.Sprintf("cannot exec in container %q: it is stopped", o.ID))
	}
	if err != nil {
		return nil, err
	}
	defer pidfd.Close()
	slots := noSlots()
	slots[wire.SlotInit] = int(pidfd.Fd())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pr, err := carryOut(plan, slots, o.Stdio, o.PreserveFDs, o.ConsoleSocket)
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pr.PID, proc: pr, c: c, spec: spec}
	if pr.Master >= 0 {
		p.Master, pr.Master = os.NewFile(uintptr(pr.Master), "terminal"), -1
	}
	if o.PidFile != "" {
		if err := atomicfile.Write(o.PidFile, []byte(strconv.Itoa(p.PID)), 0o644, false); err != nil {
			pr.Abort()
			return nil, err
		}
	}
	return p, nil
}

// process makes the process to run.
func (o *ExecOptions) process(spec *specs.Spec) (*specs.Process, error) {
	if o.Process != "" {
		text, err := os.ReadFile(o.Process)
		if err != nil {
			return nil, err
		}
		p := &specs.Process{}
		if err := json.Unmarshal(text, p); err != nil {
			return nil, errs.E("decode the process", errs.Invalid, err)
		}
		return p, nil
	}
	p := specs.Process{Cwd: "/"}
	if spec.Process != nil {
		p = *spec.Process
	}
	p.Args, p.Terminal, p.ConsoleSize = o.Args, o.Terminal, nil
	p.Env = slices.Concat(p.Env, o.Env)
	if o.Cwd != "" {
		p.Cwd = o.Cwd
	}
	p.NoNewPrivileges = p.NoNewPrivileges || o.NoNewPrivileges
	if o.Apparmor != "" {
		p.ApparmorProfile = o.Apparmor
	}
	if o.Label != "" {
		p.SelinuxLabel = o.Label
	}
	if o.User != "" {
		u, g, both := strings.Cut(o.User, ":")
		uid, err := id(u)
		if err != nil {
			return nil, err
		}
		p.User.UID, p.User.AdditionalGids = uid, nil
		if both {
			if p.User.GID, err = id(g); err != nil {
				return nil, err
			}
		}
	}
	p.User.AdditionalGids = slices.Concat(p.User.AdditionalGids, o.Groups)
	if len(o.Caps) > 0 {
		caps := specs.LinuxCapabilities{}
		if p.Capabilities != nil {
			caps = *p.Capabilities
		}
		for _, set := range []*[]string{&caps.Bounding, &caps.Effective, &caps.Permitted} {
			*set = slices.Concat(*set, o.Caps)
		}
		p.Capabilities = &caps
	}
	return &p, nil
}

// id reads a number of 32 bits, strictly.
func id(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == 1<<32-1 {
		return 0, errs.New(errs.Invalid, fmt.Sprintf("invalid id %q: a number from 0 to 4294967294 is wanted", s))
	}
	return uint32(n), nil
}

// procs are the files by which a process joins the container's cgroups.
func (c *Container) procs(sub string) ([]string, error) {
	dirs := c.dirs()
	if sub == "" || path.Clean("/"+sub) == "/" {
		return dirs.Procs, nil
	}
	if slices.Contains(strings.Split(sub, "/"), "..") {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("invalid cgroup %q", sub))
	}
	var list []string
	for _, p := range dirs.Procs {
		f := filepath.Join(filepath.Dir(p), sub, filepath.Base(p))
		if _, err := os.Lstat(f); err != nil {
			return nil, fmt.Errorf("the container has no cgroup %q: %w", sub, err)
		}
		list = append(list, f)
	}
	return list, nil
}

// Wait waits for the process's end.
func (p *Process) Wait() (int, error) {
	ws, err := reap(p.PID)
	p.proc.Close()
	if err != nil {
		return -1, err
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return ws.ExitStatus(), nil
}

// Signal passes a signal on. A process that has ended does not get it.
func (p *Process) Signal(sig syscall.Signal) { _ = syscall.Kill(p.PID, sig) } // our own child, not yet reaped

// Ps returns the pids of the container's processes.
func (r *Runtime) Ps(id string) ([]int, error) {
	c, err := r.load(id)
	if err != nil {
		return nil, err
	}
	dirs := c.dirs().Remove
	if len(dirs) == 0 {
		if c.alive() {
			return []int{c.rec.PID}, nil
		}
		return nil, nil
	}
	return cgroup.Processes(dirs)
}

// SetPaused freezes the container's processes, or thaws them.
func (r *Runtime) SetPaused(ctx context.Context, id string, paused bool) error {
	c, l, err := r.open(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	status := c.Status()
	switch {
	case paused && status != specs.StateRunning && status != specs.StateCreated:
		return errs.New(errs.Conflict, fmt.Sprintf("cannot pause container %q: it is %s", id, status))
	case !paused && status != "paused":
		return errs.New(errs.Conflict, fmt.Sprintf("cannot resume container %q: it is %s", id, status))
	}
	return cgroup.SetFrozen(ctx, c.dirs().Remove, paused)
}

// Update changes the limits of a container. What res does not name stays.
func (r *Runtime) Update(ctx context.Context, id string, res *specs.LinuxResources) error {
	c, l, err := r.open(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	if status := c.Status(); status == specs.StateStopped || status == specs.StateCreating {
		return errs.New(errs.Conflict, fmt.Sprintf("cannot update container %q: it is %s", id, status))
	}
	h, err := r.cgroups()
	if err != nil {
		return err
	}
	if c.rec.Cgroup == "" {
		return errs.New(errs.Unsupported, fmt.Sprintf("container %q has no cgroup to limit", id))
	}
	return h.UpdateOCI(c.rec.Cgroup, res)
}

// Stats are what the container uses now.
func (r *Runtime) Stats(id string) (cgroup.Stats, error) {
	c, err := r.load(id)
	if err != nil {
		return cgroup.Stats{}, err
	}
	if status := c.Status(); status == specs.StateStopped || status == specs.StateCreating {
		return cgroup.Stats{}, errs.New(errs.Conflict, fmt.Sprintf("container %q is not running", id))
	}
	return cgroup.Read(c.dirs().Remove), nil
}
