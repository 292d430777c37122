// Package session is the client's side of a container's monitor: it starts one,
// attaches to one, asks one for an exec, and copies the streams.
//
//	m := session.Ready(ctx, …)        // a monitor that waits for its job, if there is time
//	s, err := session.Spawn(ctx, …)   // the child exists and waits at its gate
//	err = s.Start(ctx)                // it runs
//	exit, err := s.Stream(ctx, …)     // until it ends or the user detaches
//	s.Close()
package session

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
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
	Exe    string           // this program, to start in the monitor's role; "": /proc/self/exe
	RunDir string           // config.Paths.Run: where the user's namespaces are registered
	Job    *wire.Job        //
	Attach wire.Attach      // streams to follow from the first byte; the zero value for none (-d)
	Slots  map[int]*os.File // further descriptors for the plan, by slot
	Held   []*os.File       // what the job's network names by number, from 1
	// Monitor is one that was started beforehand with Ready, or nil.
	Monitor *Monitor
	Go      bool // start the container at once: Start need not be called
}

// ExecOptions describes a process to add to a container.
type ExecOptions struct {
	Plan   []byte // marshalled wire.Plan
	ID     string // for events; may be empty
	Probe  bool   // it is the health check, and one that runs already will do
	TTY    bool
	Detach bool             // Exec returns once it runs; its output goes nowhere
	Attach wire.Attach      // Stdin: it gets a pipe, else /dev/null
	Slots  map[int]*os.File // further descriptors for the plan, by slot
}

// Streams are the caller's ends of the session's streams.
type Streams struct {
	In       io.Reader // nil: none. Its end closes the process's stdin, and detaches if Out and Err are nil
	Out, Err io.Writer // nil: discarded
	// Terminal is put into raw mode while streams are copied, and its size
	// followed. nil: there is none, or it is to stay as it is.
	Terminal *os.File
	// DetachKeys end the session with ErrDetached when they are read from In.
	DetachKeys []byte
	Signals    <-chan os.Signal // passed on to the process; nil: none
}

// Session is a connection to a monitor. One goroutine may use Stream while
// others call Signal and Resize.
type Session struct {
	conn      *os.File // a SOCK_SEQPACKET socket that does not block
	dir       string   // the container's directory
	buf       []byte
	pid       int
	tty       bool
	openStdin bool
	stdin     bool // the streams were asked for with stdin
	attached  bool // joined a terminal that others have drawn on
	exec      bool
	started   time.Time // of the run; zero if attached to it
}

// Attach connects to the container in dir, which must be running.
func Attach(ctx context.Context, dir string, a wire.Attach) (*Session, error) {
	s, err := dial(dir)
	if err != nil {
		return nil, err
	}
	var at wire.Attached
	if err := s.ask(ctx, &a, nil, &at); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.pid, s.tty, s.openStdin, s.stdin, s.attached = at.PID, at.TTY, at.OpenStdin, a.Stdin && at.OpenStdin, true
	return s, nil
}

// Exec starts a process in the running container in dir. It fails with a
// *StartError if the process did not come to be.
func Exec(ctx context.Context, dir string, o ExecOptions) (*Session, error) {
	s, err := dial(dir)
	if err != nil {
		return nil, err
	}
	plan, err := sys.Memfd("plan", o.Plan)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	defer plan.Close()
	slots, files := descriptors(plan, o.Slots)
	var r wire.Running
	if err := s.ask(ctx, &wire.Exec{TTY: o.TTY, Detach: o.Detach, Slots: slots, Attach: o.Attach, ID: o.ID, Probe: o.Probe}, files, &r); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.pid, s.tty, s.openStdin, s.stdin, s.exec = r.PID, o.TTY, o.Attach.Stdin, o.Attach.Stdin, true
	return s, nil
}

// Reload tells the monitor of the container in dir, if there is one, that
// settings.json has changed: a container that waits for its restart, and now is
// not to be restarted, ends. stopped says that it is not to be since the user has
// stopped it.
func Reload(ctx context.Context, dir string, stopped bool) error {
	s, err := dial(dir)
	if errs.KindOf(err) == errs.Conflict {
		return nil // it does not run
	}
	if err != nil {
		return err
	}
	return errors.Join(s.ask(ctx, &wire.Reload{Stopped: stopped}, nil, &wire.Done{}), s.Close())
}

// Pause freezes all processes of the container in dir, or lets them go on.
func Pause(ctx context.Context, dir string, on bool) error {
	s, err := dial(dir)
	if err != nil {
		return err
	}
	return errors.Join(s.ask(ctx, &wire.Pause{On: on}, nil, &wire.Done{}), s.Close())
}

// Network makes the network of the container in dir another one: a marshalled
// [wire.Net], with what it names by number, from 1.
func Network(ctx context.Context, dir string, net []byte, held []*os.File) error {
	s, err := dial(dir)
	if err != nil {
		return err
	}
	text, err := sys.Memfd("network", net)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	defer text.Close()
	if err := s.hold(held); err != nil {
		return errors.Join(err, s.Close())
	}
	err = s.ask(ctx, &wire.Network{}, []*os.File{text}, &wire.Done{})
	if start, ok := errors.AsType[*StartError](err); ok { // it is no start
		err = start.Err
	}
	return errors.Join(err, s.Close())
}

// hold brings descriptors before the message that names them.
func (s *Session) hold(files []*os.File) error {
	for len(files) > 0 {
		n := min(len(files), wire.MaxHold)
		if err := s.send(wire.Marshal(&wire.Hold{}), files[:n]); err != nil {
			return err
		}
		files = files[n:]
	}
	return nil
}

// errNotRunning is what a container without a monitor answers.
func errNotRunning() error { return errs.New(errs.Conflict, "the container is not running") }

// dial connects to the monitor of the container in dir.
func dial(dir string) (*Session, error) {
	d, err := os.OpenFile(filepath.Join(dir, "run"), syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNotRunning()
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// Through the descriptor, because the path of a socket is limited to 107 bytes.
	err = syscall.Connect(fd, &syscall.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/attach"})
	if err == nil {
		err = ours(fd)
	}
	if err != nil {
		_ = syscall.Close(fd) // nothing was said
	}
	switch {
	case err == nil:
		return newSession(fd, dir), nil
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, errNotRunning()
	case errors.Is(err, syscall.EAGAIN):
		return nil, errs.New(errs.Unavailable, "the container's monitor is busy")
	}
	return nil, fmt.Errorf("connect to the monitor of %s: %w", dir, err)
}

// ours checks that a monitor of this user listens: the run directory is gone
// after a reboot, and its place may be in a directory that others can write to.
func ours(fd int) error {
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil {
		return os.NewSyscallError("getsockopt", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return errs.New(errs.Denied, "somebody else's process listens at its place")
	}
	return nil
}

func newSession(fd int, dir string) *Session {
	return &Session{conn: os.NewFile(uintptr(fd), "monitor"), dir: dir, buf: make([]byte, wire.MaxPacket)}
}

// descriptors returns what travels beside a request: first, then each of slots.
func descriptors(first *os.File, slots map[int]*os.File) ([]byte, []*os.File) {
	numbers, files := []byte(nil), []*os.File{first}
	for slot, f := range slots {
		numbers, files = append(numbers, byte(slot)), append(files, f)
	}
	return numbers, files
}

// ask sends a request and waits for its answer.
func (s *Session) ask(ctx context.Context, m wire.Message, files []*os.File, answer wire.Message) error {
	if err := s.send(wire.Marshal(m), files); err != nil && !errors.Is(err, syscall.EPIPE) {
		return err // one that is gone may have said why
	}
	return s.await(ctx, answer)
}

// await reads the answer of a monitor, or why there is none.
func (s *Session) await(ctx context.Context, answer wire.Message) error {
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) }) // a socket: it can
	defer stop()
	packet, err := s.read()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		return errs.New(errs.Internal, "the container's monitor was killed")
	case err != nil:
		return err
	case wire.KindOf(packet) == wire.KindFailed:
		return failed(packet)
	}
	return wire.Unmarshal(packet, answer)
}

// failed turns the monitor's words into an error.
func failed(packet []byte) error {
	var f wire.Failed
	if err := wire.Unmarshal(packet, &f); err != nil {
		return err
	}
	return &StartError{Code: f.Code, Err: &errs.Error{Kind: f.Reason, Hint: f.Hint, Err: errors.New(f.Text)}}
}

// read returns the next packet, which is valid until the next call.
func (s *Session) read() ([]byte, error) {
	n, err := s.conn.Read(s.buf)
	if errors.Is(err, syscall.ECONNRESET) {
		// The monitor left without reading what we sent last. What it said is still
		// to be read.
		n, err = s.conn.Read(s.buf)
	}
	return s.buf[:n], err
}

// send sends one packet, with files beside it.
func (s *Session) send(packet []byte, files []*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = syscall.UnixRights(fds...)
	}
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		for {
			_, failure = syscall.SendmsgN(int(fd), packet, rights, nil, syscall.MSG_NOSIGNAL)
			if !errors.Is(failure, syscall.EINTR) {
				return !errors.Is(failure, syscall.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, failure); err != nil {
		return fmt.Errorf("speak to the monitor: %w", err)
	}
	return nil
}

// Start opens the gate. It returns when the command runs, or with a *StartError.
func (s *Session) Start(ctx context.Context) error {
	var r wire.Running
	if err := s.ask(ctx, &wire.Start{}, nil, &r); err != nil {
		return err
	}
	s.running(&r)
	return nil
}

func (s *Session) running(r *wire.Running) { s.pid, s.started = r.PID, time.Unix(0, r.StartedAt) }

// PID returns the process, as the monitor's pid namespace numbers it.
func (s *Session) PID() int { return s.pid }

// TTY reports whether the process has a terminal.
func (s *Session) TTY() bool { return s.tty }

// OpenStdin reports whether the process has a stdin that can be written to.
func (s *Session) OpenStdin() bool { return s.openStdin }

// Signal sends sig to the process.
func (s *Session) Signal(sig syscall.Signal) error {
	return s.send(wire.Marshal(&wire.Signal{Number: int(sig)}), nil)
}

// Resize sets the size of the process's terminal.
func (s *Session) Resize(z Size) error {
	return s.send(wire.Marshal(&wire.Resize{Rows: z.Rows, Cols: z.Cols}), nil)
}

// Close ends the connection and nothing else.
func (s *Session) Close() error { return s.conn.Close() }

// lost returns how the session's process ended when the monitor did not say.
func (s *Session) lost(ctx context.Context) (Exit, error) {
	killed := Exit{Code: 128 + int(syscall.SIGKILL)}
	err := errs.New(errs.Internal, "the container's monitor was killed, and the container with it")
	if s.exec {
		return killed, err
	}
	// It may have written the exit before it died: then alive is free.
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	l, e := lock.Acquire(ctx, filepath.Join(s.dir, "alive"), false)
	if e != nil {
		return killed, err
	}
	defer l.Release()
	var x container.Exit
	b, e := os.ReadFile(filepath.Join(s.dir, "exit.json"))
	if e != nil || json.Unmarshal(b, &x) != nil || s.started.IsZero() || !x.StartedAt.Equal(s.started) {
		return killed, err
	}
	return Exit{Code: x.Code, OOMKilled: x.OOMKilled, Cleanup: true}, nil
}
