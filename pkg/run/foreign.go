package run

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/seccomp"
)

// A container of another OCI runtime (--runtime) lives in one of ours: the monitor
// starts an outer container, whose root is the host's and whose first process is
// `RUNTIME run`. It has a mount namespace, where the image's layers are mounted and
// the runtime keeps its state in memory, and a pid namespace, so that nothing is left
// of either if somebody is killed. The network is the outer one's, so the data plane
// need not know. Streams, terminal, signals and the exit code pass through the
// runtime, as its foreground mode does for everybody.

// foreignSpecVersion is what the runtime is told: an older crun refuses 1.1 and later,
// and nothing newer is asked of it.
const foreignSpecVersion = "1.0.2"

// foreignWait is how long a start waits until the runtime says that the container runs.
const foreignWait = 10 * time.Second

func foreign(req plan.Request) bool { return len(req.RuntimeArgv) > 0 }

// foreignDir is the runtime's bundle, which is also where its words to us are: the
// file that says that the container runs, and the processes to start in it.
func foreignDir(runDir string) string   { return filepath.Join(runDir, "bundle") }
func foreignPID(runDir string) string   { return filepath.Join(foreignDir(runDir), "pid") }
func foreignState(runDir string) string { return filepath.Join(foreignDir(runDir), "state") }

// checkForeign refuses what does not pass through another runtime.
func checkForeign(req plan.Request) error {
	if !foreign(req) {
		return nil
	}
	refuse := func(flag string) error {
		err := errs.New(errs.Unsupported, fmt.Sprintf("%s cannot be used with --runtime %s", flag, req.Runtime))
		return errs.WithHint(err, "Leave one of them out.")
	}
	switch {
	case req.Init:
		return refuse("--init")
	case req.PIDMode != "" && req.PIDMode != "private":
		return refuse("--pid " + req.PIDMode)
	case req.UserNS != "" && req.UserNS != "host":
		return refuse("--userns " + req.UserNS)
	case req.CgroupNSMode == "host":
		return refuse("--cgroupns host")
	}
	return nil
}

// outer is the container in which the runtime works. Process is the runtime's.
func (s *Service) outer(spec *specs.Spec, runDir string, proc *specs.Process) *specs.Spec {
	var namespaces []specs.LinuxNamespace
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path != "" || ns.Type == specs.NetworkNamespace {
			namespaces = append(namespaces, ns)
		}
	}
	namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.MountNamespace}, specs.LinuxNamespace{Type: specs.PIDNamespace})
	return &specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "/"}, Process: proc,
		Linux: &specs.Linux{Namespaces: namespaces, Sysctl: netSysctls(spec, true)},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: foreignState(runDir), Type: "tmpfs", Source: "tmpfs", Options: []string{"mode=700"}},
		},
	}
}

// netSysctls are the sysctls of the network namespace, or all others.
func netSysctls(spec *specs.Spec, net bool) map[string]string {
	some := map[string]string{}
	for k, v := range spec.Linux.Sysctl {
		if strings.HasPrefix(k, "net.") == net {
			some[k] = v
		}
	}
	return some
}

// outerProcess is a command of the runtime's: it has all that we have.
func (s *Service) outerProcess(host plan.Host, tty bool, argv ...string) *specs.Process {
	env := slices.Clone(s.o.Environ)
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	}
	return &specs.Process{Args: argv, Cwd: "/", Env: env, Terminal: tty, Capabilities: host.AllCaps()}
}

// foreignArgv is a command line of the runtime.
func foreignArgv(rec *container.Record, runDir string, words ...string) []string {
	argv := append(slices.Clone(rec.Request.RuntimeArgv), "--root", foreignState(runDir))
	if rec.Cgroup == "" && filepath.Base(argv[0]) == "crun" {
		argv = append(argv, "--cgroup-manager=disabled")
	}
	return append(argv, words...)
}

// inner is the config.json for the runtime: the container's, less what the outer one
// does already.
func (s *Service) inner(rec *container.Record, spec *specs.Spec, host plan.Host, rootfs string) (*specs.Spec, error) {
	in := *spec
	in.Version = foreignSpecVersion
	in.Root = &specs.Root{Path: rootfs, Readonly: spec.Root.Readonly}
	linux := *spec.Linux
	in.Linux = &linux
	linux.Namespaces = nil
	for _, ns := range spec.Linux.Namespaces {
		if ns.Path == "" && ns.Type != specs.NetworkNamespace {
			linux.Namespaces = append(linux.Namespaces, ns)
		}
	}
	linux.Sysctl = netSysctls(spec, false)
	linux.CgroupsPath = rec.Cgroup
	if rec.Cgroup == "" {
		linux.Resources = nil
	}
	in.Mounts = slices.Clone(spec.Mounts)
	for _, f := range slices.Concat(s.etcMounts(s.store.Dir(rec.ID), rec.Request), s.secretFiles(rec)) {
		in.Mounts = append(in.Mounts, specs.Mount{Destination: f.Target, Source: f.Source, Type: "bind", Options: []string{"bind", "rw", "rprivate"}})
	}
	if host.Seccomp {
		profile := rec.Request.Security.Seccomp
		if rec.Request.Privileged && profile == "" {
			profile = "unconfined"
		}
		var caps []string
		if spec.Process.Capabilities != nil {
			caps = spec.Process.Capabilities.Bounding
		}
		text, err := seccomp.Spec(profile, seccomp.Options{Caps: caps, Arch: host.Arch, Major: host.Kernel.Major, Minor: host.Kernel.Minor})
		if err != nil {
			return nil, err
		}
		if text != nil {
			linux.Seccomp = new(specs.LinuxSeccomp)
			if err := json.Unmarshal(text, linux.Seccomp); err != nil {
				return nil, errs.E("hand the seccomp profile on", errs.Internal, err)
			}
		}
	}
	return &in, nil
}

// foreignPlan writes the bundle and returns the plan of `RUNTIME run`.
func (s *Service) foreignPlan(rec *container.Record, spec *specs.Spec, host plan.Host, runDir, rootfs string, o lower.Options) (*wire.Plan, error) {
	bundle := foreignDir(runDir)
	if err := os.RemoveAll(bundle); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(foreignState(runDir), 0o700); err != nil {
		return nil, err
	}
	in, err := s.inner(rec, spec, host, rootfs)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(in)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		return nil, err
	}
	argv := foreignArgv(rec, runDir, "run", "--bundle", bundle, "--pid-file", foreignPID(runDir), rec.ID)
	out := s.outer(spec, runDir, s.outerProcess(host, spec.Process.Terminal, argv...))
	return lower.Run(out, lower.Options{
		Place:    rootfs, // not at / itself: what lies there cannot become the root
		Trees:    []lower.Tree{{Target: rootfs, Layers: *o.Overlay, Path: "/"}},
		Rootless: o.Rootless, InUserNS: o.InUserNS, SingleID: o.SingleID, Warn: o.Warn,
	})
}

// execPlan is the plan of another process in the container: ours, or `RUNTIME exec`.
func (s *Service) execPlan(rec *container.Record, spec *specs.Spec, proc *specs.Process, o lower.ExecOptions) (*wire.Plan, error) {
	if !foreign(rec.Request) {
		return lower.Exec(spec, proc, o)
	}
	runDir, err := os.Readlink(filepath.Join(s.store.Dir(rec.ID), "run"))
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(proc)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(foreignDir(runDir), 0o700); err != nil {
		return nil, err
	}
	file := filepath.Join(runDir, "exec-"+container.NewID()[:12]+".json") // goes with the run directory
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	outer := s.outerProcess(host, proc.Terminal, foreignArgv(rec, runDir, "exec", "--process", file, rec.ID)...)
	return lower.Exec(s.outer(spec, runDir, outer), outer, lower.ExecOptions{InUserNS: o.InUserNS, SingleID: o.SingleID})
}

// foreignRuns waits until the runtime says that the container runs, or has ended.
func (s *Service) foreignRuns(ctx context.Context, rec *container.Record) error {
	runDir, err := os.Readlink(filepath.Join(s.store.Dir(rec.ID), "run"))
	if err != nil {
		return err
	}
	deadline := time.Now().Add(foreignWait)
	for {
		if _, err := os.Stat(foreignPID(runDir)); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		c, err := s.store.Load(rec.ID)
		if err != nil || !c.Alive {
			return nil //nolint:nilerr // it has ended, and --rm removed it: its exit code tells
		}
		if time.Now().After(deadline) {
			return nil // it takes its time: who enters it is told
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
