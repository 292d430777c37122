// Package userns is about U, the one user namespace in which an ordinary user's
// containers and files live. The first process that needs it makes it; while any
// process lives in it, others join. Who is in it is written down in files named
// after pid and start time, so that U needs no process of its own.
package userns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
	"golang.org/x/sys/unix"
)

// The environment of a process in U. The names that begin with _CONTAINERS are
// those that containers/storage looks at.
const (
	envInside     = "_CAIS_USERNS"
	envConfigured = "_CONTAINERS_USERNS_CONFIGURED"
	envUID        = "_CONTAINERS_ROOTLESS_UID"
	envGID        = "_CONTAINERS_ROOTLESS_GID"
)

// Needed reports whether commands that touch files of mapped ids, and
// containers, must enter U: for everybody but root, and not inside U. Root of a
// container that was given no power to mount is like everybody.
func Needed() bool { return os.Geteuid() != 0 || !Inside() && !mayMount() }

// mayMount says that we have CAP_SYS_ADMIN.
func mayMount() bool {
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&head, &data[0]); err != nil {
		return true // the next system call tells
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// Inside reports whether this process was started in U by [Start].
func Inside() bool { return os.Getenv(envInside) == "1" && os.Geteuid() == 0 }

// OuterUID returns the real user's id, also inside U.
func OuterUID() int { return outer(envUID, os.Geteuid()) }

// OuterGID returns the real user's group, also inside U.
func OuterGID() int { return outer(envGID, os.Getegid()) }

// Environ returns the variables that tell a program that it is in U, for what a
// process there starts in its turn.
func Environ() []string {
	return []string{
		envInside + "=1", envConfigured + "=done",
		envUID + "=" + strconv.Itoa(OuterUID()), envGID + "=" + strconv.Itoa(OuterGID()),
	}
}

func outer(env string, own int) int {
	if !Inside() {
		return own
	}
	if id, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return id
	}
	return own
}

// Cmd is a program to start in U.
type Cmd struct {
	Path  string // absolute
	Args  []string
	Env   []string   // the program gets this and U's variables
	Dir   string     // "": this process's
	Files []*os.File // become descriptors 0, 1, …; nil entries are /dev/null

	MountNS bool // in a mount namespace of its own, into which the host's mounts propagate
	Setsid  bool // in a session of its own
	// Pdeathsig is what it gets when the thread that called Start ends; 0: nothing.
	Pdeathsig syscall.Signal
}

// Process is a program that runs in U.
type Process struct {
	PID   int
	PidFD int

	entry string // its file in the register
}

// Start starts c in U, making U if nobody is there. runDir is config's Paths.Run.
// For root, who needs no U, it just starts the program.
//
// What U maps is decided by who makes it: later changes of /etc/subuid take effect
// once nobody is left in it.
func Start(ctx context.Context, runDir string, c *Cmd) (*Process, error) {
	if !Needed() {
		return start(c, -1, nil)
	}
	dir := filepath.Join(runDir, "userns")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// Held from the search to the entry, so that two first commands make one U.
	l, err := lock.Acquire(ctx, filepath.Join(dir, "lock"), true)
	if err != nil {
		return nil, fmt.Errorf("lock the register of user namespaces: %w", err)
	}
	defer l.Release()
	ns, err := find(dir, os.Geteuid())
	if err != nil {
		return nil, err
	}
	var m *Mapping
	if ns == nil {
		made, err := Map(os.Geteuid())
		if err != nil {
			return nil, err
		}
		m = &made
	}
	fd := -1
	if ns != nil {
		defer ns.Close()
		fd = int(ns.Fd())
	}
	p, err := start(c, fd, m)
	if err != nil {
		return nil, err
	}
	began, err := startTime(p.PID)
	if err != nil { // it has ended already: nobody can join it
		return p, nil
	}
	p.entry = filepath.Join(dir, strconv.Itoa(p.PID)+"-"+began)
	if err := os.WriteFile(p.entry, nil, 0o600); err != nil { // an empty file: there is nothing to tear
		_ = syscall.Kill(p.PID, syscall.SIGKILL) // our own child, not yet reaped
		_, werr := p.Wait()
		return nil, errors.Join(err, werr)
	}
	return p, nil
}

// start carries c's plan out: in the namespace ns, or in a new one with map m,
// or, with neither, where we are.
func start(c *Cmd, ns int, m *Mapping) (*Process, error) {
	plan, err := c.plan(ns >= 0, m)
	if err != nil {
		return nil, err
	}
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	slots[slotNS] = ns
	for i, f := range c.Files {
		if f != nil {
			slots[slotFiles+i] = int(f.Fd())
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	slots[slotNull] = int(null.Fd())
	pr, err := launch.Start(plan, &slots)
	runtime.KeepAlive(c)
	if err != nil {
		return nil, explain(err)
	}
	p := &Process{PID: pr.PID, PidFD: pr.PidFD}
	pr.PidFD = -1 // ours now
	pr.Close()
	return p, nil
}

// explain adds what to do about a kernel that grants no user namespace.
func explain(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC):
		return errs.WithHint(errs.E("make a user namespace", errs.Unsupported, err),
			"The host allows no more of them: see 'sysctl user.max_user_namespaces'.")
	case errors.Is(err, unix.EPERM) && filtered():
		return errs.WithHint(errs.E("make or enter the user namespace", errs.Denied, err),
			"Inside a container? Start the outer one with --security-opt seccomp=unconfined --security-opt systempaths=unconfined.")
	case errors.Is(err, unix.EPERM) && errs.HintOf(err) == "":
		return errs.WithHint(errs.E("make or enter the user namespace", errs.Denied, err),
			"The host restricts user namespaces: see 'sysctl kernel.unprivileged_userns_clone' and 'kernel.apparmor_restrict_unprivileged_userns'.")
	}
	return err
}

// filtered says that a seccomp filter of somebody's decides what we may do.
func filtered() bool {
	text, err := os.ReadFile("/proc/self/status")
	return err == nil && strings.Contains(string(text), "\nSeccomp:\t2")
}

// Wait waits for the program's end and returns its exit code, 128+n for a signal.
func (p *Process) Wait() (int, error) {
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(p.PID, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if p.PidFD >= 0 {
			_ = syscall.Close(p.PidFD) // a handle
			p.PidFD = -1
		}
		if p.entry != "" {
			_ = os.Remove(p.entry) // or the next Start does
		}
		if err != nil {
			return -1, os.NewSyscallError("wait4", err)
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}
