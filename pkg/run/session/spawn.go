package session

import (
	"context"
	"errors"
	"math"
	"os"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/sys/raw"
	"cais.dev/cais/pkg/userns"
	"golang.org/x/sys/unix"
)

// monitorRole is run/role's Monitor: a constant of its own, because whoever
// imports role becomes what it dispatches to.
const monitorRole = "cais-monitor"

// Monitor is a monitor without a job. To start one takes as long as to plan a
// container, more so when the user's namespace must be made: so it is started
// while the caller plans.
type Monitor struct {
	conn  int
	ready chan struct{} // closed once it is started, or is not
	pid   int
	err   error
}

// PID waits until the monitor is started and returns its pid.
func (m *Monitor) PID() (int, error) {
	<-m.ready
	return m.pid, m.err
}

// Ready starts a monitor, in the user's namespace when one is needed, and does
// not wait for it. It ends in [Spawn] or with Discard. exe is this program; "":
// /proc/self/exe. runDir is config.Paths.Run.
func Ready(ctx context.Context, exe, runDir string) (*Monitor, error) {
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "monitor's end")
	if err := syscall.SetNonblock(pair[0], true); err != nil {
		_ = syscall.Close(pair[0]) // nothing was said
		return nil, errors.Join(os.NewSyscallError("fcntl", err), theirs.Close())
	}
	m := &Monitor{conn: pair[0], ready: make(chan struct{})}
	go func() {
		m.pid, m.err = startMonitor(ctx, exe, runDir, theirs)
		m.err = errors.Join(m.err, theirs.Close())
		close(m.ready)
	}()
	return m, nil
}

// Discard ends a monitor that gets no job. It is not to be called after Spawn.
func (m *Monitor) Discard() {
	_ = syscall.Close(m.conn) // it reads this as the end; nothing was said
	<-m.ready                 // whether there ever was one matters no more
}

// Spawn starts a monitor for o.Job, or gives the job to o.Monitor. It returns
// when the container's child exists and waits at its gate, or, with o.Go, when
// the container runs; a *StartError says why it does not. Once it has asked, the
// end of ctx does not make it leave: it would not know whether the container runs.
func Spawn(ctx context.Context, o SpawnOptions) (*Session, error) {
	m := o.Monitor
	if m == nil {
		var err error
		if m, err = Ready(ctx, o.Exe, o.RunDir); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		m.Discard()
		return nil, context.Cause(ctx)
	}
	s := newSession(m.conn, o.Job.Dir)
	s.tty, s.openStdin, s.stdin = o.Job.TTY, o.Job.OpenStdin, o.Attach.Stdin && o.Job.OpenStdin
	// The request waits in the socket until the monitor looks.
	asked := s.create(o)
	<-m.ready
	if err := errors.Join(m.err, asked); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	ctx = context.WithoutCancel(ctx)
	var err error
	if o.Go {
		var r wire.Running
		err = s.await(ctx, &r)
		s.running(&r)
	} else {
		var c wire.Created
		err = s.await(ctx, &c)
		s.pid = c.PID
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// create asks the monitor for the container.
func (s *Session) create(o SpawnOptions) error {
	job, err := sys.Memfd("job", wire.Marshal(o.Job))
	if err != nil {
		return err
	}
	defer job.Close()
	if err := s.hold(o.Held); err != nil {
		return err
	}
	slots, files := descriptors(job, o.Slots)
	return s.send(wire.Marshal(&wire.Create{Slots: slots, Attach: o.Attach, Go: o.Go}), files)
}

// startMonitor starts this program in the role. The monitor is nobody's to wait
// for: it outlives this process.
func startMonitor(ctx context.Context, exe, runDir string, control *os.File) (pid int, err error) {
	if exe == "" {
		exe = "/proc/self/exe"
	}
	// What our own caller left open by accident, the lock of a shell script say,
	// must not stay open for the life of a container.
	if err := unix.CloseRange(3, math.MaxInt32, unix.CLOSE_RANGE_CLOEXEC); err != nil && !errors.Is(err, unix.ENOSYS) {
		return 0, os.NewSyscallError("close_range", err)
	}
	// One thread runs Go code in a monitor. Its heap stays below 1 MB, at which Go
	// first looks for garbage with this: at its start there is no time for that.
	env := []string{"GOMAXPROCS=1", "GOGC=25"}
	if userns.Needed() {
		p, err := userns.Start(ctx, runDir, &userns.Cmd{
			Path: exe, Args: []string{monitorRole}, Env: env, Dir: "/",
			Files: []*os.File{nil, nil, nil, control}, Setsid: true,
		})
		if err != nil {
			return 0, err
		}
		return p.PID, nil
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	// An image whose entry point is /proc/self/exe gets hold of the program that
	// the monitor is. Beneath a read-only mount it cannot be overwritten, whatever
	// becomes of the descriptor. An ordinary user cannot make one; there the kernel
	// refuses to write to a program that runs, as a monitor does all the time.
	above := 4
	if twin, err := raw.ReadOnlyTwin(exe); err == nil {
		defer func() { _ = syscall.Close(twin) }() // a handle
		exe = "/proc/self/fd/" + strconv.Itoa(twin)
		// In the child ForkExec uses the numbers above all that it is to pass on, and
		// would put something else into the twin's place.
		above = twin + 1
	}
	// Not os.StartProcess, which first starts a process to see whether pidfds work.
	n, err := unix.FcntlInt(null.Fd(), unix.F_DUPFD_CLOEXEC, above)
	if err != nil {
		return 0, os.NewSyscallError("fcntl", err)
	}
	defer func() { _ = syscall.Close(n) }() // nothing is written
	pid, err = syscall.ForkExec(exe, []string{monitorRole}, &syscall.ProcAttr{
		Dir: "/", Env: env, Files: []uintptr{uintptr(n), uintptr(n), uintptr(n), control.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, &os.PathError{Op: "fork/exec", Path: exe, Err: err}
	}
	return pid, nil
}
