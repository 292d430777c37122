package ociruntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/seccomp"
	"cais.dev/cais/pkg/sys"
)

// CreateOptions say what to make a container from.
type CreateOptions struct {
	ID, Bundle, Config string // Config: a file beside or instead of the bundle's config.json

	PidFile, ConsoleSocket string
	PreserveFDs            int
	NoPivot, NoNewKeyring  bool
	Stdio                  [3]*os.File // for a process without a terminal
}

// Process is a process that this one started, and whose parent it is.
type Process struct {
	PID    int
	Master *os.File // its terminal, if nobody else got it

	proc *launch.Proc
	fifo *os.File
	c    *Container
	spec *specs.Spec
}

// Create makes a container whose process waits for its start. The process is this
// program's child.
func (r *Runtime) Create(ctx context.Context, o CreateOptions) error {
	p, err := r.create(ctx, o)
	if err != nil {
		return err
	}
	defer p.fifo.Close()
	return p.proc.Leave()
}

// Run is Create and Start in one. It returns once the program runs.
func (r *Runtime) Run(ctx context.Context, o CreateOptions) (*Process, error) {
	p, err := r.create(ctx, o)
	if err != nil {
		return nil, err
	}
	defer p.fifo.Close()
	err = r.launch(ctx, p)
	if err == nil {
		return p, nil
	}
	return nil, errors.Join(err, r.Delete(context.WithoutCancel(ctx), o.ID, true))
}

func (r *Runtime) launch(ctx context.Context, p *Process) error {
	if p.spec.Process == nil || len(p.spec.Process.Args) == 0 {
		return noProcess(p.c.rec.ID)
	}
	if err := p.c.startHooks(ctx, p.spec); err != nil {
		return err
	}
	// The byte that start would send is there before the gate is opened, so that an
	// error of the execve is still heard.
	if _, err := p.fifo.Write([]byte{1}); err != nil {
		return err
	}
	if err := os.Remove(p.fifo.Name()); err != nil {
		return err
	}
	if err := p.proc.Release(); err != nil {
		return err
	}
	return p.c.started(ctx, p.spec)
}

func noProcess(id string) error {
	return errs.New(errs.Invalid, fmt.Sprintf("container %q has no process to start: its configuration has no process.args", id))
}

// create returns the container's process at its gate.
func (r *Runtime) create(ctx context.Context, o CreateOptions) (p *Process, err error) {
	if err := checkID(o.ID); err != nil {
		return nil, err
	}
	bundle, err := filepath.Abs(o.Bundle)
	if err != nil {
		return nil, err
	}
	text, spec, err := readConfig(bundle, o.Config)
	if err != nil {
		return nil, err
	}
	rootfs := spec.Root.Path
	if !filepath.IsAbs(rootfs) {
		rootfs = filepath.Join(bundle, rootfs)
	}
	if rootfs, err = filepath.EvalSymlinks(rootfs); err != nil {
		return nil, errs.E("find the root file system", errs.NotFound, err)
	}
	if st, err := os.Stat(rootfs); err != nil || !st.IsDir() {
		return nil, errs.New(errs.Invalid, "the root file system "+rootfs+" is not a directory")
	}
	spec.Root.Path = rootfs
	setHome(spec.Process, rootfs)
	r.clamp(spec.Process)
	if err := checkTerminal(spec, o); err != nil {
		return nil, err
	}

	if err := os.MkdirAll(r.Root, 0o700); err != nil {
		return nil, err
	}
	c := &Container{r: r, dir: filepath.Join(r.Root, o.ID)}
	if err := os.Mkdir(c.dir, 0o700); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil, errs.New(errs.Conflict, fmt.Sprintf("container with id %q exists already", o.ID))
		}
		return nil, err
	}
	l, err := lock.Acquire(ctx, filepath.Join(c.dir, "lock"), true)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(c.dir))
	}
	defer l.Release()
	defer func() {
		if err != nil {
			ctx := context.WithoutCancel(ctx)
			err = errors.Join(err, c.end(ctx), os.RemoveAll(c.dir))
			if spec.Hooks != nil && p != nil {
				c.runLenient(ctx, "poststop", spec.Hooks.Poststop, c.state(specs.StateStopped, spec))
			}
			p = nil
		}
	}()
	c.rec = record{Version: recordVersion, ID: o.ID, Bundle: bundle, Rootfs: rootfs, Created: time.Now().UTC(), Owner: owner()}
	if err := atomicfile.Write(filepath.Join(c.dir, "config.json"), text, 0o600, false); err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.MountNamespace }) {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || mountedAt(string(text), rootfs) {
			return nil, errors.Join(err, errs.New(errs.Conflict, "the container has no mount namespace, and something is mounted at its root "+rootfs))
		}
		c.rec.Mounted = true
		c.r.Warn("the container has no mount namespace: its mounts are the host's until it is deleted")
	}
	if err := c.place(spec); err != nil {
		return nil, err
	}
	if err := c.save(); err != nil { // what is made from here on is found by delete
		return nil, err
	}
	dirs, err := c.makeCgroups(ctx, spec)
	if err != nil {
		return nil, err
	}
	p, err = c.clone(ctx, spec, dirs, o)
	return p, err
}

// clamp lowers hard limits to our own where we may not raise them: a container with
// fewer open files is better than none.
func (r *Runtime) clamp(p *specs.Process) {
	if p == nil || mayRaise() {
		return
	}
	p.Rlimits = slices.Clone(p.Rlimits)
	for i := range p.Rlimits {
		l := &p.Rlimits[i]
		n, ok := lower.Rlimit(l.Type)
		var own syscall.Rlimit
		if !ok || syscall.Getrlimit(n, &own) != nil || l.Hard <= own.Max {
			continue
		}
		r.Note(fmt.Sprintf("%s is lowered from %d to %d: raising it needs CAP_SYS_RESOURCE", l.Type, l.Hard, own.Max))
		l.Hard, l.Soft = own.Max, min(l.Soft, own.Max)
	}
}

func mayRaise() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil || inUserNS() { // limits are raised by who has it in the first user namespace
		return false
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:\t")
	line, _, _ := strings.Cut(rest, "\n")
	caps, err := strconv.ParseUint(line, 16, 64)
	return err == nil && caps&(1<<24) != 0
}

// checkTerminal refuses the two halves of a terminal without each other.
func checkTerminal(spec *specs.Spec, o CreateOptions) error {
	if o.ConsoleSocket != "" && (spec.Process == nil || !spec.Process.Terminal) {
		return errs.New(errs.Invalid, "a console socket is given, but the process wants no terminal")
	}
	return nil
}

func owner() string {
	uid := strconv.Itoa(os.Getuid())
	if u, err := user.LookupId(uid); err == nil {
		return u.Username
	}
	return uid
}

// place decides where the container's cgroups go.
func (c *Container) place(spec *specs.Spec) error {
	h, err := c.r.cgroups()
	if err != nil {
		return err
	}
	switch c.r.Cgroups {
	case Disabled:
		return nil
	case Systemd:
		if mode := h.Mode(); mode != "v2" {
			return errs.New(errs.Unsupported, "systemd's cgroups need cgroup v2 alone; this host has "+mode)
		}
		u, err := cgroup.OCIUnit(spec.Linux.CgroupsPath, c.rec.ID)
		if err != nil {
			return err
		}
		c.rec.Unit, c.rec.UserUnit = u.Name, u.User
		return nil
	}
	// Another root may have a container with this id.
	own := fmt.Sprintf("%s-%08x", c.rec.ID, crc32.ChecksumIEEE([]byte(c.r.Root)))
	c.rec.Cgroup, err = h.OCIPath(spec.Linux.CgroupsPath, own)
	return err
}

func (c *Container) makeCgroups(ctx context.Context, spec *specs.Spec) (cgroup.Dirs, error) {
	if c.rec.Cgroup == "" || c.rec.Unit != "" {
		return cgroup.Dirs{}, nil // by the unit, once there is a process
	}
	h, err := c.r.cgroups()
	if err != nil {
		return cgroup.Dirs{}, err
	}
	return cgroup.CreateOCI(ctx, h, cgroup.Options{ID: c.rec.ID, Path: c.rec.Cgroup, Resources: resources(spec)})
}

// resources are the spec's, with the devices that every container may use.
func resources(spec *specs.Spec) *specs.LinuxResources {
	res := spec.Linux.Resources
	if inUserNS() || os.Geteuid() != 0 {
		if res == nil {
			return nil
		}
		r := *res
		r.Devices = nil // the kernel lets only root of the machine limit devices, and us make none
		return &r
	}
	r := specs.LinuxResources{}
	if res != nil {
		r = *res
	}
	if len(r.Devices) > 0 {
		r.Devices = append(slices.Clone(r.Devices), defaultRules()...)
		for _, d := range spec.Linux.Devices {
			if d.Type == "p" {
				continue
			}
			r.Devices = append(r.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: strings.Replace(d.Type, "u", "c", 1), Major: &d.Major, Minor: &d.Minor, Access: "rwm"})
		}
	}
	return &r
}

func defaultRules() []specs.LinuxDeviceCgroup {
	char := func(major, minor int64) specs.LinuxDeviceCgroup {
		r := specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Access: "rwm"}
		if minor >= 0 {
			r.Minor = &minor
		}
		return r
	}
	any := int64(-1)
	return []specs.LinuxDeviceCgroup{
		{Allow: true, Type: "c", Major: &any, Minor: &any, Access: "m"}, {Allow: true, Type: "b", Major: &any, Minor: &any, Access: "m"},
		char(1, 3), char(1, 5), char(1, 7), char(1, 8), char(1, 9),
		char(5, 0), char(5, 1), char(5, 2), char(136, -1),
	}
}

// clone makes the container's process, and returns once it waits for its start.
func (c *Container) clone(ctx context.Context, spec *specs.Spec, dirs cgroup.Dirs, o CreateOptions) (*Process, error) {
	filter, err := filterOf(spec)
	if err != nil {
		return nil, err
	}
	lo := lower.Options{
		Seccomp: filter.Code, SeccompFlags: filter.Flags,
		InUserNS: inUserNS() || os.Geteuid() != 0, SingleID: groupsDenied("self"),
		OuterProc: inUserNS(), CgroupProcs: dirs.Procs,
		Detached: true, CopyUp: true, SharedMounts: true, CgroupGate: c.rec.Unit != "", HookGate: needsHookGate(spec), NoPivot: o.NoPivot, KeepKeyring: o.NoNewKeyring, PreserveFDs: o.PreserveFDs,
		Warn: c.r.Warn,
	}
	if hasNew(spec, specs.UserNamespace) {
		lo.InUserNS, lo.EarlySources = true, os.Geteuid() == 0
		c.early = lo.EarlySources
		if os.Geteuid() != 0 && len(spec.Linux.UIDMappings) == 1 && spec.Linux.UIDMappings[0].Size == 1 {
			lo.SingleID = true
		}
	}
	plan, err := lower.Run(spec, lo)
	if err != nil {
		return nil, err
	}
	if hasNew(spec, specs.UserNamespace) && os.Geteuid() != 0 {
		plan.DenySetgroups, plan.MapHelpers = lo.SingleID, !lo.SingleID
	}
	fifo, err := c.makeFIFO()
	if err != nil {
		return nil, err
	}
	slots := noSlots()
	slots[lower.SlotStart] = int(fifo.Fd())
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pr, err := carryOut(plan, slots, o.Stdio, o.PreserveFDs, o.ConsoleSocket)
	if err != nil {
		return nil, errors.Join(err, fifo.Close())
	}
	p := &Process{PID: pr.PID, proc: pr, fifo: fifo, c: c, spec: spec}
	if err := c.ready(ctx, p, o); err != nil {
		pr.Abort()
		return p, errors.Join(err, fifo.Close())
	}
	if pr.Master >= 0 {
		p.Master, pr.Master = os.NewFile(uintptr(pr.Master), "terminal"), -1
	}
	return p, nil
}

// ready notes the process, and runs the hooks that come before it is created.
func (c *Container) ready(ctx context.Context, p *Process, o CreateOptions) error {
	start, err := sys.ProcessStart(p.PID)
	if err != nil {
		return err
	}
	c.rec.PID, c.rec.PIDStart = p.PID, start
	if c.rec.Unit != "" {
		if err := c.startUnit(ctx, p); err != nil {
			return err
		}
	}
	if err := c.save(); err != nil {
		return err
	}
	if needsHookGate(p.spec) {
		if err := c.copyUp(p); err != nil {
			return err
		}
		h, state := p.spec.Hooks, c.state(specs.StateCreated, p.spec)
		if h == nil {
			h = &specs.Hooks{}
		}
		//lint:ignore SA1019 bundles still say it, and a runtime must do it
		if err := runHooks(ctx, "prestart", h.Prestart, state); err != nil {
			return err
		}
		if err := runHooks(ctx, "createRuntime", h.CreateRuntime, state); err != nil {
			return err
		}
		if err := runInside(ctx, "createContainer", h.CreateContainer, p.spec, p.proc.PidFD, state); err != nil {
			return err
		}
		if err := p.proc.Release(); err != nil {
			return err
		}
	}
	if o.PidFile != "" {
		if err := atomicfile.Write(o.PidFile, []byte(strconv.Itoa(p.PID)), 0o644, false); err != nil {
			return err
		}
	}
	return nil
}

func needsHookGate(spec *specs.Spec) bool {
	h := spec.Hooks
	//lint:ignore SA1019 bundles still say it, and a runtime must do it
	return slices.ContainsFunc(spec.Mounts, wantsCopy) || h != nil && len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
}

func hasNew(spec *specs.Spec, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind && n.Path == "" })
}

// makeFIFO makes what the process waits on. It is open in both directions, so that
// nobody's end makes a read of it end.
func (c *Container) makeFIFO() (*os.File, error) {
	path := filepath.Join(c.dir, "exec.fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		return nil, &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// carryOut starts what plan says with the caller's descriptors beside those of slots.
func carryOut(plan *wire.Plan, slots [wire.NumSlots]int, stdio [3]*os.File, preserved int, consoleSocket string) (*launch.Proc, error) {
	for i, f := range stdio {
		if f != nil {
			slots[wire.SlotStdin+i] = int(f.Fd())
		}
	}
	if err := preserve(&slots, preserved); err != nil {
		return nil, err
	}
	if consoleSocket != "" {
		console, err := dialConsole(consoleSocket)
		if err != nil {
			return nil, err
		}
		defer console.Close()
		slots[wire.SlotConsole] = int(console.Fd())
	}
	return launch.Start(plan, &slots)
}

// preserve puts the descriptors 3 to 3+n into their slots.
func preserve(slots *[wire.NumSlots]int, n int) error {
	if n > lower.MaxPreserved {
		return errs.New(errs.Unsupported, fmt.Sprintf("at most %d descriptors can be preserved", lower.MaxPreserved))
	}
	for i := range n {
		fd := 3 + i
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if errno != 0 || flags&syscall.FD_CLOEXEC != 0 { // what this program opened itself is closed by an exec
			return errs.New(errs.Invalid, fmt.Sprintf("descriptor %d is to be preserved, but is not open", fd))
		}
		slots[lower.SlotPreserved+i] = fd
	}
	return nil
}

// dialConsole connects to the socket that gets the terminal's master.
func dialConsole(path string) (*os.File, error) {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("connect to the console socket: %w", err)
	}
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		return nil, err
	}
	return f, syscall.SetNonblock(int(f.Fd()), false)
}

// groupsDenied says that setgroups is switched off in the namespace of process pid.
func groupsDenied(pid string) bool {
	text, err := os.ReadFile("/proc/" + pid + "/setgroups")
	return err == nil && strings.TrimSpace(string(text)) == "deny"
}

// filterOf compiles the spec's seccomp section.
func filterOf(spec *specs.Spec) (seccomp.Filter, error) {
	if spec.Linux.Seccomp == nil {
		return seccomp.Filter{}, nil
	}
	text, err := json.Marshal(spec.Linux.Seccomp)
	if err != nil {
		return seccomp.Filter{}, err
	}
	return seccomp.Load(string(text), seccomp.Options{Arch: runtime.GOARCH, Major: 99})
}
