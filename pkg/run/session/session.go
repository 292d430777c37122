// Package session is the client's side of a container's monitor: it starts one,
// attaches to one, asks one for an exec, and copies the streams.
//
//	s, err := session.Spawn(ctx, …)   // the child exists and waits at its gate
//	err = s.Start(ctx)                // it runs
//	exit, err := s.Stream(ctx, …)     // until it ends or the user detaches
//	s.Close()
package session

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
)

// Size is the size of a terminal; the zero value is an unknown one.
type Size struct{ Rows, Cols uint16 }

// Exit is how the session's process ended.
type Exit struct {
	Code      int // 0–255; 128+n for signal n
	OOMKilled bool
	// Cleanup says that the monitor leaves the rest to this client, which
	// started the container and is still here: removing it, for --rm.
	Cleanup  bool
	Restarts bool // the restart policy starts the container again
}

// ErrDetached is what Stream returns when the user typed the detach keys.
var ErrDetached = errors.New("read escape sequence")

// StartError is a process that did not come to be: Err has kind and hint.
type StartError struct {
	Code int // 126: the command cannot be executed; 127: it is not there; 125: anything before it
	Err  error
}

// Error returns the cause's text.
func (e *StartError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StartError) Unwrap() error { return e.Err }

// SpawnOptions describes a container to start.
type SpawnOptions struct {
	RunDir string           // config.Paths.Run: where the user's namespaces are registered
	Job    *wire.Job        //
	Attach wire.Attach      // streams to follow from the first byte; the zero value for none (-d)
	Slots  map[int]*os.File // further descriptors for the plan, by slot
	Size   Size             // of the terminal that the container gets
}

// ExecOptions describes a process to add to a container.
type ExecOptions struct {
	Plan   []byte // marshalled wire.Plan
	TTY    bool
	Detach bool             // Exec returns once it runs; its output goes nowhere
	Attach wire.Attach      // Stdin: it gets a pipe, else /dev/null
	Slots  map[int]*os.File // further descriptors for the plan, by slot
}

// Streams are the caller's ends of the session's streams.
type Streams struct {
	In       io.Reader // nil: none. Its end closes the process's stdin
	Out, Err io.Writer // nil: discarded
	// Terminal is put into raw mode while streams are copied, and its size
	// followed. nil: there is none, or it is to stay as it is.
	Terminal *os.File
	// DetachKeys end the session with ErrDetached when they are read from In.
	DetachKeys []byte
	Signals    <-chan os.Signal // passed on to the process; nil: none
}

// Session is a connection to a monitor.
type Session struct{}

var errLater = errs.New(errs.Unsupported, "session: not here yet")

// Spawn starts a monitor for o.Job, in the user's namespace when one is needed.
// It returns when the container's child exists and waits at its gate.
func Spawn(ctx context.Context, o SpawnOptions) (*Session, error) { return nil, errLater }

// Attach connects to the container in dir, which must be running.
func Attach(ctx context.Context, dir string, a wire.Attach) (*Session, error) { return nil, errLater }

// Exec starts a process in the running container in dir.
func Exec(ctx context.Context, dir string, o ExecOptions) (*Session, error) { return nil, errLater }

// Reload tells the monitor of the container in dir, if there is one, that
// settings.json has changed: a container that waits for its restart, and now is
// not to be restarted, ends.
func Reload(ctx context.Context, dir string) error { return errLater }

// Start opens the gate. It returns when the command runs, or with a *StartError.
func (s *Session) Start(ctx context.Context) error { return errLater }

// Stream copies the streams until the process ends, the user detaches
// (ErrDetached) or ctx is cancelled; the last two leave the process running.
func (s *Session) Stream(ctx context.Context, st Streams) (Exit, error) { return Exit{}, errLater }

// PID returns the process, as the monitor's pid namespace numbers it.
func (s *Session) PID() int { return 0 }

// TTY reports whether the process has a terminal, OpenStdin whether it reads its stdin.
func (s *Session) TTY() bool { return false }

// OpenStdin reports whether the container was made with -i.
func (s *Session) OpenStdin() bool { return false }

// Signal sends sig to the process.
func (s *Session) Signal(sig syscall.Signal) error { return errLater }

// Resize sets the size of the process's terminal.
func (s *Session) Resize(z Size) error { return errLater }

// Close ends the connection and nothing else.
func (s *Session) Close() error { return nil }
