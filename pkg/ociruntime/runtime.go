// Package ociruntime is an OCI runtime: create, start, state, kill, delete and
// the commands that crun and runc have beside them, over the code that makes the
// containers of `cais run`. Other engines drive it, and the public suites.
//
// A container has a directory below the runtime's root:
//
//	state.json   what is known of it; written before anything that has to be undone
//	config.json  its spec, as it was at create
//	exec.fifo    while it waits for its start
//	lock         held for one change
//
// Nothing watches it: who called the runtime (a shim, conmon) is its process's
// parent once create has left, and reaps it.
package ociruntime

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
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/sys"
)

// Cgroup managers.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
	Disabled = "disabled"
)

// Runtime is a root directory with its containers.
type Runtime struct {
	Root    string // absolute
	Cgroups string // [Cgroupfs], [Systemd] or [Disabled]
	Warn    func(text string)
	Note    func(text string) // what hardly anybody wants to know

	cgroups func() (*cgroup.Host, error)
}

// New returns the runtime on root.
func New(root, cgroups string, warn func(string)) *Runtime {
	return &Runtime{Root: root, Cgroups: cgroups, Warn: warn, Note: func(string) {}, cgroups: sync.OnceValues(cgroup.Detect)}
}

// Root returns the directory of states when none is given.
func Root(getenv func(string) string) string {
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" && (os.Geteuid() != 0 || inUserNS()) {
		return filepath.Join(dir, "cais-oci")
	}
	return "/run/cais-oci"
}

// record is what state.json holds.
type record struct {
	Version  int       `json:"version"` // recordVersion
	ID       string    `json:"id"`
	Bundle   string    `json:"bundle"`
	Rootfs   string    `json:"rootfs"`
	PID      int       `json:"pid"`
	PIDStart uint64    `json:"pidStart"` // field 22 of /proc/PID/stat
	Created  time.Time `json:"created"`
	Owner    string    `json:"owner"`
	Cgroup   string    `json:"cgroup"` // below each hierarchy's base
	Unit     string    `json:"unit"`   // systemd's scope
	UserUnit bool      `json:"userUnit"`
	// Mounted says that mounts of the container's lie on the rootfs in our own mount
	// namespace, as its spec gives it none.
	Mounted bool `json:"mounted"`
}

const recordVersion = 1

// Container is a container and its lock.
type Container struct {
	r   *Runtime
	rec record
	dir string

	early bool // its root waits at /sys: see lower.Options.EarlySources
}

// checkID refuses what is no container's name, as runc does.
func checkID(id string) error {
	ok := id != "" && id != "." && id != ".." && len(id) <= 1024
	for _, c := range id {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("_+-.", c)) {
			ok = false
		}
	}
	if !ok {
		return errs.New(errs.Invalid, fmt.Sprintf("invalid container id %q: letters, digits, _, +, - and . make one", id))
	}
	return nil
}

// open finds the container and locks it.
func (r *Runtime) open(ctx context.Context, id string) (*Container, *lock.Lock, error) {
	if err := checkID(id); err != nil {
		return nil, nil, err
	}
	dir := filepath.Join(r.Root, id)
	if _, err := os.Lstat(dir); err != nil {
		return nil, nil, missing(id, err)
	}
	l, err := lock.Acquire(ctx, filepath.Join(dir, "lock"), true)
	if err != nil {
		return nil, nil, missing(id, err)
	}
	c, err := r.load(id)
	if err != nil {
		return nil, nil, errors.Join(err, l.Release())
	}
	return c, l, nil
}

func missing(id string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.NotFound, fmt.Sprintf("container %q does not exist", id))
	}
	return err
}

// load reads the container's record without its lock.
func (r *Runtime) load(id string) (*Container, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	c := &Container{r: r, dir: filepath.Join(r.Root, id)}
	text, err := os.ReadFile(filepath.Join(c.dir, "state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, e := os.Lstat(c.dir); e == nil { // a create that was killed, or is at its start
			c.rec = record{Version: recordVersion, ID: id}
			return c, nil
		}
	}
	if err != nil {
		return nil, missing(id, err)
	}
	if err := json.Unmarshal(text, &c.rec); err != nil {
		return nil, fmt.Errorf("read the state of container %s: %w", id, err)
	}
	if c.rec.Version > recordVersion {
		return nil, errs.New(errs.Unsupported, fmt.Sprintf("container %s was made by a newer cais", id))
	}
	return c, nil
}

func (c *Container) save() error {
	text, err := json.Marshal(&c.rec)
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(c.dir, "state.json"), text, 0o600, false)
}

func (c *Container) spec() (*specs.Spec, error) {
	text, err := os.ReadFile(filepath.Join(c.dir, "config.json"))
	if err != nil {
		return nil, err
	}
	return parseSpec(text)
}

// alive says that the container's first process has not ended.
func (c *Container) alive() bool {
	if c.rec.PID <= 0 {
		return false
	}
	start, err := sys.ProcessStart(c.rec.PID)
	return err == nil && start == c.rec.PIDStart && !zombie(c.rec.PID)
}

func zombie(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	i := strings.LastIndexByte(string(text), ')')
	return i+2 < len(text) && (text[i+2] == 'Z' || text[i+2] == 'X')
}

// Status is the container's state in the words of the spec; "paused" beside
// them, as crun and runc have it.
func (c *Container) Status() specs.ContainerState {
	switch {
	case c.rec.PID == 0 && c.rec.Created.IsZero(), c.rec.PID == 0:
		if held, err := lock.Held(filepath.Join(c.dir, "lock")); err == nil && held {
			return specs.StateCreating
		}
		return specs.StateStopped
	case !c.alive():
		return specs.StateStopped
	}
	if _, err := os.Lstat(filepath.Join(c.dir, "exec.fifo")); err == nil {
		return specs.StateCreated
	}
	if cgroup.Frozen(c.dirs().Remove) {
		return "paused"
	}
	return specs.StateRunning
}

func (c *Container) dirs() cgroup.Dirs {
	h, err := c.r.cgroups()
	if err != nil || c.rec.Cgroup == "" {
		return cgroup.Dirs{}
	}
	return h.Find(c.rec.Cgroup)
}

// state is what hooks get on their input, and `state` prints.
func (c *Container) state(status specs.ContainerState, spec *specs.Spec) *specs.State {
	s := &specs.State{Version: specs.Version, ID: c.rec.ID, Status: status, Bundle: c.rec.Bundle}
	if status != specs.StateStopped {
		s.Pid = c.rec.PID
	}
	if spec != nil {
		s.Annotations = spec.Annotations
	}
	return s
}

// State is what `state` prints: the spec's, and what crun and runc add.
type State struct {
	specs.State
	PID     int       `json:"pid"` // 0 once it is stopped: not left out
	Rootfs  string    `json:"rootfs"`
	Created time.Time `json:"created"`
	Owner   string    `json:"owner"`
}

// State returns the state of container id.
func (r *Runtime) State(id string) (*State, error) {
	c, err := r.load(id)
	if err != nil {
		return nil, err
	}
	spec, err := c.spec()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s := c.state(c.Status(), spec)
	return &State{State: *s, PID: s.Pid, Rootfs: c.rec.Rootfs, Created: c.rec.Created, Owner: c.rec.Owner}, nil
}

// List returns the states of all containers, by name.
func (r *Runtime) List() ([]*State, error) {
	entries, err := os.ReadDir(r.Root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []*State
	for _, e := range entries {
		if !e.IsDir() || checkID(e.Name()) != nil {
			continue
		}
		s, err := r.State(e.Name())
		if errs.KindOf(err) == errs.NotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *State) int { return strings.Compare(a.ID, b.ID) })
	return list, nil
}

// signal signals the first process, if it is still the one it was.
func (c *Container) signal(sig syscall.Signal) error {
	return sys.SignalProcess(c.rec.PID, c.rec.PIDStart, sig)
}

// Kill signals the container's first process; with all, every process that it has.
func (r *Runtime) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	c, err := r.load(id)
	if err != nil {
		return err
	}
	status := c.Status()
	if all {
		dirs := c.dirs().Remove
		pids, err := cgroup.Processes(dirs)
		if err != nil {
			return err
		}
		for _, pid := range pids {
			start, err := sys.ProcessStart(pid)
			if err == nil {
				err = sys.SignalProcess(pid, start, sig)
			}
			if err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
		if len(pids) > 0 || len(dirs) > 0 && status == specs.StateStopped {
			return nil
		}
	}
	if status == specs.StateStopped || status == specs.StateCreating {
		return errs.New(errs.Conflict, fmt.Sprintf("container %q is not running: it is %s", id, status))
	}
	err = c.signal(sig)
	if errors.Is(err, syscall.ESRCH) {
		return errs.New(errs.Conflict, fmt.Sprintf("container %q is not running", id))
	}
	if err == nil && sig == syscall.SIGKILL && status == "paused" && cgroupVersion1(c.dirs().Remove) {
		return cgroup.SetFrozen(ctx, c.dirs().Remove, false) // it would die only then
	}
	return err
}

func cgroupVersion1(dirs []string) bool {
	return slices.ContainsFunc(dirs, func(d string) bool { _, err := os.Lstat(d + "/freezer.state"); return err == nil })
}

// Delete removes a container that is stopped; one that only was created, too, as
// crun and runc do. With force a running one is killed, and a missing one is no error.
func (r *Runtime) Delete(ctx context.Context, id string, force bool) error {
	c, l, err := r.open(ctx, id)
	if err != nil {
		if force && errs.KindOf(err) == errs.NotFound {
			return nil
		}
		return err
	}
	defer l.Release()
	switch status := c.Status(); {
	case status == specs.StateStopped, status == specs.StateCreated, status == specs.StateCreating:
	case !force:
		return errs.New(errs.Conflict, fmt.Sprintf("cannot delete container %q that is not stopped: it is %s", id, status))
	}
	if err := c.end(ctx); err != nil {
		return err
	}
	spec, err := c.spec()
	if err := os.RemoveAll(c.dir); err != nil {
		return err
	}
	if err == nil && spec.Hooks != nil {
		c.runLenient(ctx, "poststop", spec.Hooks.Poststop, c.state(specs.StateStopped, spec))
	}
	return nil
}

// end kills what is left of the container, and removes its cgroups.
func (c *Container) end(ctx context.Context) error {
	dirs := c.dirs().Remove
	h, err := c.r.cgroups()
	if err != nil {
		return err
	}
	if c.alive() {
		if err := c.signal(syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	if cgroup.Frozen(dirs) {
		if err := cgroup.SetFrozen(ctx, dirs, false); err != nil {
			return err
		}
	}
	if err := cgroup.KillOCI(h, dirs); err != nil {
		c.r.Warn(err.Error())
	}
	for wait := time.Millisecond; c.alive(); wait = min(2*wait, 50*time.Millisecond) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
	}
	// A scope of systemd's goes with its last process, too.
	if err := cgroup.RemoveOCI(ctx, h, dirs); err != nil {
		c.r.Warn(err.Error())
	}
	return c.unmount()
}

// unmount takes away the mounts of a container without a mount namespace. Its
// bundle may be deleted next, so failing is an error.
func (c *Container) unmount() error {
	if !c.rec.Mounted {
		return nil
	}
	for {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		if !mountedAt(string(text), c.rec.Rootfs) {
			return nil
		}
		const detach, noFollow = 2, 8 // MNT_DETACH, UMOUNT_NOFOLLOW
		if err := syscall.Unmount(c.rec.Rootfs, detach|noFollow); err != nil {
			return &fs.PathError{Op: "umount", Path: c.rec.Rootfs, Err: err}
		}
	}
}

func mountedAt(mountinfo, path string) bool {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`).Replace(path) {
			return true
		}
	}
	return false
}

func inUserNS() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && strings.Join(strings.Fields(string(text)), " ") != "0 0 4294967295"
}
