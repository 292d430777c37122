package build

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/files"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/tree"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/seccomp"
	"cais.dev/cais/pkg/sys"
)

// carryOut makes the layer of n above base.
func (b *build) carryOut(ctx context.Context, n *node, base *fileSystem, key string, step *progress.Step) (*cache.Result, error) {
	meta := cache.Meta{Key: key, Text: cmp.Or(n.Command, n.Name), Kind: "regular", Base: base.top, Created: time.Now().UTC()}
	if len(base.chain) > 0 {
		meta.Parent = base.chain[0].ID
	}
	m, err := b.cache.Make(ctx)
	if err != nil {
		return nil, err
	}
	switch op := n.Op.(type) {
	case *graph.Exec:
		err = b.exec(ctx, n, op, base, m, step)
	case *graph.Copy:
		err = b.copy(ctx, n, op, base, m, step)
	case *graph.Mkdir:
		err = b.mkdir(ctx, n, op, base, m, step)
	case *graph.Merge:
		var layer *fileSystem
		if layer, err = b.files(ctx, op.Layer); err == nil {
			meta.Diff = cmp.Or(layer.chain[0].Diff, layer.chain[0].ID)
			err = os.Remove(m.Dir())
		}
	default:
		err = errs.New(errs.Internal, fmt.Sprintf("a step of an unknown kind: %T", op))
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		m.Discard()
		return nil, err
	}
	meta.Base = base.top // known at the latest now
	r, err := m.Finish(meta)
	if err != nil {
		m.Discard()
	}
	return r, err
}

// command is one RUN being prepared.
type command struct {
	b    *build
	n    *node
	op   *graph.Exec
	m    *cache.Making
	host plan.Host
	dirs []string // the file system before, top first
	tree *tree.Tree

	req     plan.Request
	options lower.Options
	env     []string
	targets []string // of mounts, whose places are to vanish again
	parts   []part
	undo    []func()
}

func (c *command) later(f func()) { c.undo = append(c.undo, f) }

func (c *command) close() {
	for _, f := range slices.Backward(c.undo) {
		f()
	}
}

// exec runs a command with the step's directory as the upper one of its overlay.
func (b *build) exec(ctx context.Context, n *node, op *graph.Exec, base *fileSystem, m *cache.Making, step *progress.Step) error {
	host, err := b.host()
	if err != nil {
		return err
	}
	c := &command{b: b, n: n, op: op, m: m, host: host}
	defer c.close()
	if err := c.mounts(ctx); err != nil { // may wait for others who use the same
		return err
	}
	if b.slots != nil {
		select {
		case b.slots <- struct{}{}:
			defer func() { <-b.slots }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	still, err := b.cache.Still(ctx)
	if err != nil {
		return err
	}
	once := sync.OnceFunc(still)
	defer once()
	if c.dirs, err = b.dirs(ctx, base); err != nil {
		return err
	}
	if c.tree, err = tree.Open(c.dirs...); err != nil {
		return err
	}
	defer c.tree.Close()
	if err := c.trees(ctx); err != nil {
		return err
	}
	p, err := c.plan()
	if err != nil {
		return err
	}
	stubs, err := files.Places(c.tree, append(c.targets, "/dev", "/proc", "/sys", "/etc/hosts", "/etc/resolv.conf"))
	if err != nil {
		return err
	}
	stderr := &refusals{Writer: step.Stderr()}
	code, sig, err := run(ctx, p, step.Stdout(), stderr, once)
	var failed *launch.StepError
	if errors.As(err, &failed) && failed.Phase == launch.PhaseExec && failed.Errno == syscall.ENOEXEC && n.Platform.Architecture != c.host.Arch {
		err := errs.New(errs.Unsupported, fmt.Sprintf("this machine (%s) cannot run programs for %s", c.host.Arch, n.Platform))
		return errs.WithHint(err, "Install qemu-user-static, which has the kernel run them (binfmt_misc with the flag F), or build on another machine.")
	}
	if errors.As(err, &failed) && failed.Phase == launch.PhaseExec {
		code, err = failed.ExitCode(), nil
		fmt.Fprintln(step.Stderr(), failed.Error())
	}
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if code != 0 || sig != "" {
		err := &ExitError{Args: op.Args, Code: code, Signal: sig}
		// The command's own words may not say it: overlay calls a full disk an I/O error.
		if _, free, diskErr := disk(m.Dir()); diskErr == nil && free < noRoom {
			return errs.WithHint(err, "The disk is full. "+makeRoom)
		}
		if stderr.seen && b.s.o.Layers.Single() {
			return errs.WithHint(err, "You have no subordinate ids: what changes users or owners (apt, chown, su) fails. 'cais doctor' says how root gives you some.")
		}
		return err
	}
	return files.RemovePlaces(m.Dir(), c.tree, stubs)
}

// refusals notices the kernel's words for an id that does not exist in the user's
// namespace, and for leave to become another.
type refusals struct {
	io.Writer
	seen bool
}

// Write passes b on.
func (r *refusals) Write(b []byte) (int, error) {
	r.seen = r.seen || bytes.Contains(b, []byte("Invalid argument")) || bytes.Contains(b, []byte("Operation not permitted"))
	return r.Writer.Write(b)
}

// plan decides what the command gets.
func (c *command) plan() (*wire.Plan, error) {
	b, op := c.b, c.op
	if len(op.Args) == 0 { // RUN []
		return nil, errs.New(errs.Invalid, "there is no command")
	}
	scratch, err := c.m.Scratch("root")
	if err != nil {
		return nil, err
	}
	base, err := b.basePlaces()
	if err != nil {
		return nil, err
	}
	passwd, err := c.tree.ReadFile("/etc/passwd", plan.MaxUserFile)
	if err != nil {
		return nil, err
	}
	group, err := c.tree.ReadFile("/etc/group", plan.MaxUserFile)
	if err != nil {
		return nil, err
	}
	r := &c.req
	r.Args, r.Entrypoint = op.Args, &[]string{}
	r.Workdir, r.User = op.Cwd, op.User
	r.Hostname = op.Hostname
	r.ShmSize = op.ShmSize
	r.CapAdd, r.CapDrop = b.req.CapAdd, b.req.CapDrop
	r.Security = b.req.Security
	r.Privileged = op.Insecure
	r.Devices = b.req.Devices
	r.Mounts = append(slices.Clone(b.req.Mounts), r.Mounts...)
	for _, m := range b.req.Mounts {
		c.targets = append(c.targets, m.Target)
	}
	network, err := c.network()
	if err != nil {
		return nil, err
	}
	r.Network = "ns:" + network.Path
	if network.Path == "" {
		r.Network = string(op.Network)
		if op.Network == graph.NetworkDefault {
			r.Network = "host"
		}
	}
	r.Ulimits = slices.Clone(b.req.Ulimits)
	for _, u := range op.Ulimits {
		r.Ulimits = slices.DeleteFunc(r.Ulimits, func(have plan.Ulimit) bool { return have.Name == u.Name })
		r.Ulimits = append(r.Ulimits, plan.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	cg, procs, err := b.cgroup()
	if err != nil {
		return nil, err
	}
	if cg == "" {
		r.Cgroups = "disabled"
	}
	in := plan.Inputs{ID: c.m.ID + c.m.ID, Rootfs: scratch, Passwd: passwd, Group: group, CgroupPath: cg}
	if err := probe.Devices(*r, &in); err != nil {
		return nil, err
	}
	spec, _, err := plan.Spec(*r, oci.Config{}, c.host, in)
	if err != nil {
		return nil, err
	}
	_, _, home, err := plan.User(op.User, passwd, group)
	if err != nil {
		return nil, err
	}
	// What a mount sets counts, whatever the image has under that name.
	spec.Process.Env = environment(c.env, slices.Concat(op.Env, op.Proxy), home)
	filter, err := b.filter(r, spec, c.host)
	if err != nil {
		return nil, err
	}
	if err := c.rootDir(); err != nil {
		return nil, err
	}
	etc, err := c.etc(network)
	if err != nil {
		return nil, err
	}
	c.options.Overlay = &lower.Overlay{
		Lower: append(slices.Clone(c.dirs), base), Upper: c.m.Dir(), Work: c.m.Work(),
		UserXattr: c.host.InUserNS, Volatile: true,
	}
	c.options.Seccomp, c.options.SeccompFlags = filter.Code, filter.Flags
	c.options.Rootless, c.options.InUserNS, c.options.SingleID = c.host.Rootless, c.host.InUserNS, c.host.SingleID
	c.options.Files = etc
	c.options.CgroupProcs = procs
	c.options.Warn = func(text string) { b.s.o.Log.Warn(text) }
	return lower.Run(spec, c.options)
}

// rootDir gives the upper directory the attributes of the root below it.
func (c *command) rootDir() error {
	d, err := os.Open(c.m.Dir())
	if err != nil {
		return err
	}
	return errors.Join(files.Root(int(d.Fd()), c.tree), d.Close())
}

// environment is env with more behind it, each unless it is there already.
func environment(env, more []string, home string) []string {
	out := slices.Clone(env)
	for _, kv := range append(more, "HOME="+home) {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(out, func(have string) bool { return strings.HasPrefix(have, name+"=") }) {
			out = append(out, kv)
		}
	}
	return out
}

// basePlaces is the lowest layer of every command: places for what is always
// mounted, so that no command leaves them in its layer.
func (b *build) basePlaces() (string, error) {
	s, err := b.scratch()
	if err != nil {
		return "", err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	dir, err := s.Scratch("places")
	if err != nil {
		return "", err
	}
	if _, err := os.Lstat(filepath.Join(dir, "etc", "resolv.conf")); err == nil {
		return dir, nil
	}
	for _, d := range []string{"dev", "proc", "sys", "etc"} {
		if err := errors.Join(os.MkdirAll(filepath.Join(dir, d), 0o755), os.Chmod(filepath.Join(dir, d), 0o755)); err != nil {
			return "", err
		}
	}
	for _, f := range []string{"hosts", "resolv.conf"} {
		if err := os.WriteFile(filepath.Join(dir, "etc", f), nil, 0o644); err != nil { //nolint:forbidigo // empty, in a directory of this build's
			return "", err
		}
	}
	return dir, os.Chmod(dir, 0o755)
}

// network is what the command reaches: the build's own namespace, or with an empty
// Path the host's or none.
func (c *command) network() (*Network, error) {
	if c.op.Network == graph.NetworkDefault && c.b.s.o.Network != nil {
		return c.b.network()
	}
	resolv, err := os.ReadFile("/etc/resolv.conf")
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return &Network{Resolv: string(resolv), HostIP: "127.0.0.1"}, err // the host's, where that is it
}

// makeNetwork makes the namespace that all commands of the build share.
func (b *build) makeNetwork(ctx context.Context) (*Network, error) {
	s, err := b.scratch()
	if err != nil {
		return nil, err
	}
	n, err := b.s.o.Network(ctx, s.ID+s.ID)
	if err != nil {
		err = errs.E("make the network of the build", errs.KindOf(err), err)
		return nil, errs.WithHint(err, "With --network host the commands have this machine's network.")
	}
	b.later(func() {
		if err := n.Close(); err != nil {
			b.s.o.Log.Warn("the build's network stays", "error", err)
		}
	})
	return n, nil
}

// etc writes the command's own hosts and resolv.conf.
func (c *command) etc(network *Network) ([]lower.File, error) {
	dir, err := c.m.Scratch("etc")
	if err != nil {
		return nil, err
	}
	hosts := "127.0.0.1\tlocalhost " + c.op.Hostname + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, h := range c.op.Hosts {
		ip := h.IP
		if ip == "host-gateway" {
			ip = network.HostIP
		}
		hosts += ip + "\t" + h.Name + "\n"
	}
	var list []lower.File
	for name, text := range map[string]string{"hosts": hosts, "resolv.conf": c.b.req.DNS.text(network.Resolv)} {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(p, []byte(text), 0o644), os.Chmod(p, 0o644)); err != nil { //nolint:forbidigo // it goes with the command
			return nil, err
		}
		list = append(list, lower.File{Target: "/etc/" + name, Source: p})
	}
	return list, nil
}

func (b *build) filter(r *plan.Request, spec *specs.Spec, host plan.Host) (seccomp.Filter, error) {
	if !host.Seccomp {
		return seccomp.Filter{}, nil
	}
	profile := r.Security.Seccomp
	if r.Privileged && profile == "" {
		profile = "unconfined"
	}
	var caps []string
	if spec.Process.Capabilities != nil {
		caps = spec.Process.Capabilities.Bounding
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	id := profile + strings.Join(caps, ",")
	if f, ok := b.filters[id]; ok {
		return f, nil
	}
	f, err := seccomp.Load(profile, seccomp.Options{Caps: caps, Arch: host.Arch, Major: host.Kernel.Major, Minor: host.Kernel.Minor})
	if err == nil {
		b.filters[id] = f
	}
	return f, err
}

// run carries out a plan and waits for its end. mounted is called when the plan has
// mounted all it mounts.
func run(ctx context.Context, p *wire.Plan, stdout, stderr io.Writer, mounted func()) (code int, signal string, err error) {
	type outcome struct {
		status syscall.WaitStatus
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		// The kernel kills the command with the thread that made it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		status, err := start(ctx, p, stdout, stderr, mounted)
		done <- outcome{status, err}
	}()
	o := <-done
	if o.err != nil {
		return 0, "", o.err
	}
	if o.status.Signaled() {
		return 128 + int(o.status.Signal()), o.status.Signal().String(), nil
	}
	return o.status.ExitStatus(), "", nil
}

func start(ctx context.Context, p *wire.Plan, stdout, stderr io.Writer, mounted func()) (status syscall.WaitStatus, err error) {
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	var copies sync.WaitGroup
	var readers []*os.File
	defer func() {
		for _, r := range readers {
			_ = r.Close() // read only
		}
	}()
	var writers []*os.File
	for i, w := range []io.Writer{stdout, stderr} {
		r, pw, err := os.Pipe()
		if err != nil {
			return status, err
		}
		readers, writers = append(readers, r), append(writers, pw)
		slots[wire.SlotStdout+i] = int(pw.Fd())
		copies.Go(func() { _, _ = io.Copy(w, r) }) // a view does not fail
	}
	pr, err := launch.Start(p, &slots)
	for _, w := range writers {
		_ = w.Close() // the command has it
	}
	mounted()
	if err != nil {
		copies.Wait()
		return status, err
	}
	defer pr.Close()
	if err := pr.Release(); err != nil {
		copies.Wait()
		return status, err
	}
	var mu sync.Mutex
	ended := false
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if !ended { // our own unreaped child: the number cannot be another process's
			_ = syscall.Kill(pr.PID, syscall.SIGKILL) // its namespace goes with it
		}
	})
	defer stop()
	if err := sys.WaitExit(pr.PID); err != nil {
		return status, err
	}
	mu.Lock()
	ended = true
	mu.Unlock()
	for {
		_, err := syscall.Wait4(pr.PID, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		copies.Wait()
		return status, err
	}
}
