// Package userns is about U, the one user namespace in which an ordinary user's
// containers and files live. The first process that needs it makes it; while any
// process lives in it, others join. Who is in it is written down in files named
// after pid and start time, so that U needs no process of its own.
package userns

import (
	"context"
	"os"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/errs"
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
// containers, must enter U: for everybody but root, and not inside U.
func Needed() bool { return os.Geteuid() != 0 }

// Inside reports whether this process was started in U by [Start].
func Inside() bool { return os.Getenv(envInside) == "1" && os.Geteuid() == 0 }

// OuterUID returns the real user's id, also inside U.
func OuterUID() int { return outer(envUID, os.Geteuid()) }

// OuterGID returns the real user's group, also inside U.
func OuterGID() int { return outer(envGID, os.Getegid()) }

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
}

// Start starts c in U, making U if nobody is there. runDir is config's Paths.Run.
func Start(ctx context.Context, runDir string, c *Cmd) (*Process, error) {
	return nil, errs.New(errs.Unsupported, "user namespaces are not written yet")
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
		if err != nil {
			return -1, os.NewSyscallError("wait4", err)
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal()), nil
		}
		return ws.ExitStatus(), nil
	}
}
