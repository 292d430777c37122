package run

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/connect"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/seccomp"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/userns"
)

// StartOptions say what a start connects the container to.
type StartOptions struct {
	Attach wire.Attach // streams to follow from the first byte; the zero value for none

	// Monitor is what Ready returned, or nil: for Run, which uses it up also when it
	// fails.
	Monitor *session.Monitor
}

// Started is a running container.
type Started struct {
	ID       string
	Session  *session.Session // nil if it ran already
	Warnings []plan.Warning
}

// Start starts a container that does not run. For one that runs already,
// Session is nil. The caller closes the session.
func (s *Service) Start(ctx context.Context, ref string, o StartOptions) (*Started, error) {
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if c.Status() == container.Paused {
		return nil, errs.New(errs.Conflict, "cannot start a paused container, try unpause instead")
	}
	if c.Alive {
		return &Started{ID: c.ID}, nil
	}
	spec, err := s.spec(c.ID)
	if err != nil {
		return nil, err
	}
	if c.Settings.Keep {
		if err := s.revive(ctx, c.ID); err != nil {
			return nil, err
		}
	}
	if c.Settings.StoppedByUser || c.Settings.Keep {
		c.Settings.StoppedByUser, c.Settings.Keep = false, false
		if err := s.store.WriteSettings(c.ID, c.Settings, true); err != nil {
			return nil, err
		}
	}
	return s.start(ctx, c.Record, c.Settings, spec, o)
}

// Ready starts a monitor for Run beside what the caller does until then. If that
// comes to nothing, Discard it.
func (s *Service) Ready(ctx context.Context) (*session.Monitor, error) {
	return session.Ready(ctx, s.o.Exe, s.store.Run)
}

// Run creates a container and starts it. If it fails before the container
// exists, or if the container is to be removed at its end, nothing is left.
// Created is set as soon as there is a container.
func (s *Service) Run(ctx context.Context, o CreateOptions, so StartOptions) (*Created, *Started, error) {
	c, err := s.create(ctx, o)
	if err != nil {
		if so.Monitor != nil {
			so.Monitor.Discard()
		}
		return nil, nil, err
	}
	defer c.lock.Release()
	settings := c.settings
	var synced chan error
	if !c.record.AutoRemove() { // beside the start; waited for before anybody is told the id
		synced = make(chan error, 1)
		go func() { synced <- s.store.Sync(c.ID) }()
	}
	st, err := s.start(ctx, c.record, settings, c.spec, so)
	if synced != nil {
		err = errors.Join(err, <-synced)
	}
	if err != nil && c.record.AutoRemove() {
		err = s.failedRun(ctx, c, settings, err)
	}
	return c, st, err
}

// failedRun removes a --rm container that did not start, and keeps err.
func (s *Service) failedRun(ctx context.Context, c *Created, settings *container.Settings, err error) error {
	ctx = context.WithoutCancel(ctx)
	if e := s.waitDead(ctx, c.ID); e != nil {
		return errors.Join(err, e)
	}
	gone := &container.Container{ID: c.ID, Dir: s.store.Dir(c.ID), Record: c.record, Settings: settings}
	if e := s.removeLocked(ctx, gone, true); e != nil {
		return errors.Join(err, e)
	}
	return err
}

// unstarted notes why a start failed before there was a monitor to note it.
func (s *Service) unstarted(rec *container.Record, why error) error {
	c, err := s.store.Load(rec.ID)
	if err != nil {
		return err
	}
	e := container.Exit{}
	if last := c.LastExit(); last != nil {
		e = *last
	}
	e.Code, e.Error = notStarted, why.Error()
	return s.store.WriteExit(rec.ID, &e, !rec.AutoRemove())
}

// notStarted is Docker's exit code of a container that did not get as far as its
// program.
const notStarted = 128

// start makes everything that a run needs and the monitor. The caller holds the
// container's lock.
func (s *Service) start(ctx context.Context, rec *container.Record, settings *container.Settings, spec *specs.Spec, o StartOptions) (st *Started, err error) {
	m := o.Monitor
	defer func() {
		if m != nil {
			m.Discard()
		}
	}()
	if err := s.store.EnsureRunDir(rec.ID); err != nil {
		return nil, err
	}
	if err := s.volumes(ctx, rec); err != nil {
		return nil, err
	}
	if err := s.overlays(ctx, rec); err != nil {
		return nil, err
	}
	j, err := s.join(spec, rec.Request)
	if err != nil {
		return nil, err
	}
	defer j.close() // the monitor has copies
	idmapped, err := j.idmaps(spec)
	if err != nil {
		return nil, err
	}
	if rec, err = s.limited(spec, rec, settings); err != nil {
		return nil, err
	}
	var u undo
	defer func() { u.on(ctx, &err) }()
	dirs, warnings, err := s.makeCgroups(ctx, rec, spec, &m)
	if err != nil {
		return nil, err
	}
	u.add(func(ctx context.Context) error { return cgroup.Remove(ctx, dirs.Remove) })
	hostname := spec.Hostname
	con, err := s.o.Networks.Prepare(ctx, rec, settings, hostname)
	if err != nil {
		return nil, errors.Join(err, s.unstarted(rec, err))
	}
	if con != nil {
		u.add(func(context.Context) error { return con.Abandon() })
		spec.Process.Env = s.o.Networks.LinkEnv(spec.Process.Env, rec.Request, settings.Name)
	}
	if spec.Process.Env, err = s.secretEnv(spec.Process.Env, rec.Request); err != nil {
		return nil, errors.Join(err, s.unstarted(rec, err))
	}
	job, err := s.job(rec, settings, spec, dirs, j.of, idmapped)
	if err != nil {
		return nil, err
	}
	var held []*os.File
	job.Joined = j.state
	if con != nil {
		job.Net, held = wire.Marshal(con.Net), con.Files
	}
	monitor := m
	m = nil // Spawn's from here on
	ses, err := session.Spawn(ctx, session.SpawnOptions{
		Exe: s.o.Exe, RunDir: s.store.Run, Job: job, Attach: o.Attach, Monitor: monitor, Go: true, Held: held, Slots: j.slots,
	})
	if err != nil {
		return nil, err
	}
	u.steps = nil // from here on the monitor cleans up
	if con != nil {
		con.Close()
	}
	if foreign(rec.Request) {
		if err := s.foreignRuns(ctx, rec); err != nil {
			return nil, errors.Join(err, ses.Close())
		}
	}
	if err := s.writePIDs(rec); err != nil {
		return nil, errors.Join(err, ses.Close())
	}
	return &Started{ID: rec.ID, Session: ses, Warnings: warnings}, nil
}

// writePIDs tells those who asked for it which processes the container has.
func (s *Service) writePIDs(rec *container.Record) error {
	if rec.Request.PIDFile == "" && rec.Request.MonitorFile == "" {
		return nil
	}
	c, err := s.store.Load(rec.ID)
	if err != nil || c.State == nil { // it may have ended already
		return err
	}
	for file, pid := range map[string]int{rec.Request.PIDFile: c.State.PID, rec.Request.MonitorFile: c.State.MonitorPID} {
		if file == "" {
			continue
		}
		if err := atomicfile.Write(file, []byte(strconv.Itoa(pid)), 0o644, false); err != nil {
			return fmt.Errorf("write the pid: %w", err)
		}
	}
	return nil
}

// joins are the processes of other containers whose namespaces a container joins.
type joins struct {
	slots map[int]*os.File // their pidfds, for the plan
	of    map[specs.LinuxNamespaceType]int
	state []string // their state.json, in the order of the slots
}

func (j joins) close() {
	for _, f := range j.slots {
		_ = f.Close() // a handle
	}
}

// join looks again at the containers whose namespaces are joined: they may have been
// started again since the spec was made. What is joined, also when the monitor starts
// the container again, is the process that is found now, or nothing: not one that has
// got its pid.
func (s *Service) join(spec *specs.Spec, req plan.Request) (_ joins, err error) {
	j := joins{slots: map[int]*os.File{}, of: map[specs.LinuxNamespaceType]int{}}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	for kind, id := range others(req) {
		var process *os.File
		c, err := s.store.Load(id)
		if err == nil && c.Running() {
			process, err = sys.OpenProcess(c.State.PID, c.State.PIDStart)
		}
		if process == nil {
			if err != nil {
				s.log.Debug("look at a container to join", "container", id, "error", err)
			}
			if c == nil {
				return j, errs.E("joining "+kind+" namespace of container", errs.KindOf(err), err)
			}
			return j, errs.New(errs.Conflict, fmt.Sprintf("cannot join %s namespace of a non running container: container %s is %s", kind, c.Name(), c.Status()))
		}
		slot := wire.SlotUser0 + len(j.slots)
		j.slots[slot], j.of[specs.LinuxNamespaceType(kind)] = process, slot
		j.state = append(j.state, filepath.Join(c.Dir, "run", "state.json"))
		path := nsPath(c.State.PID, kind)
		for i := range spec.Linux.Namespaces {
			if string(spec.Linux.Namespaces[i].Type) == kind {
				spec.Linux.Namespaces[i].Path = path
			}
		}
		for i := range spec.Mounts {
			if m := &spec.Mounts[i]; kind == "ipc" && m.Type == "bind" && strings.HasPrefix(m.Source, "/proc/") && strings.HasSuffix(m.Source, "/root/dev/shm") {
				m.Source = plan.ShmOf(path)
			}
		}
	}
	return j, nil
}

// idmaps makes a user namespace for each mount that is mapped, in the slots behind
// those of joined containers. It returns the slots by the mounts' targets.
func (j joins) idmaps(spec *specs.Spec) (map[string]int, error) {
	at := map[string]int{}
	for _, m := range spec.Mounts {
		if len(m.UIDMappings) == 0 {
			continue
		}
		ns, err := userns.Empty(usernsMap(m.UIDMappings), usernsMap(m.GIDMappings))
		if err != nil {
			return nil, fmt.Errorf("map the owners of %s: %w", m.Destination, err)
		}
		slot := wire.SlotUser0 + len(j.slots)
		j.slots[slot], at[m.Destination] = ns, slot
	}
	return at, nil
}

func usernsMap(list []specs.LinuxIDMapping) []userns.IDMap {
	var out []userns.IDMap
	for _, m := range list {
		out = append(out, userns.IDMap{Inside: m.ContainerID, Outside: m.HostID, Count: m.Size})
	}
	return out
}

// job is what the monitor gets to know.
func (s *Service) job(rec *container.Record, settings *container.Settings, spec *specs.Spec, dirs cgroup.Dirs, join map[specs.LinuxNamespaceType]int, idmapped map[string]int) (*wire.Job, error) {
	dir := s.store.Dir(rec.ID)
	runDir, err := os.Readlink(filepath.Join(dir, "run"))
	if err != nil {
		return nil, err
	}
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	inside := host.Nested(rec.IDs)
	req := rec.Request
	filter, err := s.filter(req, spec, host)
	if err != nil {
		return nil, err
	}
	rootfs := filepath.Join(runDir, "rootfs")
	if err := os.MkdirAll(rootfs, 0o700); err != nil {
		return nil, err
	}
	spec.Root.Path = rootfs
	o := lower.Options{
		Overlay: &lower.Overlay{
			Lower: rec.Lower, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"),
			UserXattr: host.InUserNS, Volatile: req.AutoRemove,
		},
		Seccomp:      filter.Code,
		SeccompFlags: filter.Flags,
		Rootless:     host.Rootless,
		InUserNS:     inside.InUserNS,
		SingleID:     inside.SingleID,
		EarlySources: rec.IDs.Own(),
		Files:        slices.Concat(s.etcMounts(dir, req), s.secretFiles(rec)),
		Init:         req.Init,
		CgroupProcs:  dirs.Procs,
		Joined:       join,
		IDMapped:     idmapped,
		Warn:         func(text string) { s.log.Warn(text) },
	}
	var p *wire.Plan
	if foreign(req) {
		p, err = s.foreignPlan(rec, spec, host, runDir, rootfs, o)
	} else {
		p, err = lower.Run(spec, o)
	}
	if err != nil {
		return nil, err
	}
	log, err := logOf(rec, settings.Name, s.cleanupArgv)
	if err != nil {
		return nil, err
	}
	stop, err := StopSignal("", rec)
	if err != nil {
		return nil, err
	}
	freezer, err := s.freezer(rec, &dirs)
	if err != nil {
		return nil, err
	}
	health, err := s.health(rec, spec, host, dirs)
	if err != nil {
		return nil, err
	}
	return &wire.Job{
		Health: health,
		ID:     rec.ID, Dir: dir, RunDir: runDir, Plan: p.Marshal(),
		TTY: req.TTY, OpenStdin: req.OpenStdin, StdinOnce: req.StdinOnce,
		Log:     log,
		Restart: wire.Restart{Name: settings.Restart.Name, Max: settings.Restart.Max},
		Timeout: req.Timeout, StopSignal: int(stop), Cgroups: dirs.Remove,
		AutoRemove: req.AutoRemove,
		Cleanup:    s.cleanupArgv(helperContainer, rec.ID),
		CleanupEnv: s.cleanupEnv(),
		Name:       settings.Name, Events: s.o.Events.Path, EventAttrs: eventAttrs(rec),
		Freezer:     freezer,
		StartEvents: append(connect.ModeEvents("connect", rec, settings), mountEvents(rec, "mount")...),
		EndEvents:   append(connect.ModeEvents("disconnect", rec, settings), mountEvents(rec, "unmount")...),
	}, nil
}

// cleanupEnv is the environment of what a monitor becomes at its end. It may
// live in the user's namespace, where we do not.
func (s *Service) cleanupEnv() []string {
	if !s.needU() {
		return s.o.Environ
	}
	return append(slices.Clone(s.o.Environ), userns.Environ()...)
}

// etcMounts are the container's own files in /etc, unless a mount of the user's
// is there.
func (s *Service) etcMounts(own string, req plan.Request) []lower.File {
	dir := own // of what goes with the network
	if id, ok := strings.CutPrefix(req.Network, "container:"); ok {
		dir = s.store.Dir(id)
	}
	taken := map[string]bool{}
	for _, m := range req.Mounts {
		taken[path.Clean(m.Target)] = true
	}
	var files []lower.File
	for _, name := range []string{network.HostsFile, hostnameFile, network.ResolvFile, passwdFile, groupFile, localtimeFile} {
		if name == passwdFile || name == groupFile || name == localtimeFile {
			dir = own
		}
		source := filepath.Join(dir, name)
		if _, err := os.Lstat(source); err == nil && !taken["/etc/"+name] {
			files = append(files, lower.File{Source: source, Target: "/etc/" + name})
		}
	}
	return files
}

func (s *Service) filter(req plan.Request, spec *specs.Spec, host plan.Host) (seccomp.Filter, error) {
	if !host.Seccomp {
		return seccomp.Filter{}, nil
	}
	profile := req.Security.Seccomp
	if req.Privileged && profile == "" {
		profile = "unconfined"
	}
	var caps []string
	if spec.Process.Capabilities != nil {
		caps = spec.Process.Capabilities.Bounding
	}
	return seccomp.Load(profile, seccomp.Options{Caps: caps, Arch: host.Arch, Major: host.Kernel.Major, Minor: host.Kernel.Minor})
}
