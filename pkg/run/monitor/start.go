package monitor

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/logs/forward"
	"cais.dev/cais/pkg/logs/jsonfile"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

const oPath = 0x200000 // O_PATH, which package syscall lacks

// errGone says that who asked for the container died before it was started.
var errGone = errors.New("the client is gone")

// begin takes the job, makes the container's child, and starts it when told.
func (m *monitor) begin() error {
	packet, fds, err := receive(Control, m.buf)
	for err == nil && wire.KindOf(packet) == wire.KindHold {
		m.held = append(m.held, fds...)
		packet, fds, err = receive(Control, m.buf)
	}
	if err != nil {
		return err
	}
	var create wire.Create
	if err := wire.Unmarshal(packet, &create); err != nil {
		return err
	}
	if len(fds) == 0 || len(fds) != 1+len(create.Slots) {
		return errs.New(errs.Internal, "wire: a request without its descriptors")
	}
	m.jobFD = fds[0]
	for i, slot := range create.Slots {
		if int(slot) < wire.SlotUser0 || int(slot) >= wire.NumSlots {
			return errs.New(errs.Internal, "wire: no such slot")
		}
		m.extra[slot] = fds[1+i]
	}
	attach, now := create.Attach, create.Go // create shares the buffer
	if err := m.prepare(); err != nil {
		return err
	}
	p, gated, err := m.clone()
	if err != nil {
		return err
	}
	p.resize(attach.Rows, attach.Cols)
	if err = m.connect(p); err == nil {
		if now {
			err = m.askedStill()
		} else {
			err = m.awaitStart(p)
		}
	}
	if err != nil {
		gated.Abort()
		return err
	}
	if err := m.release(p, gated); err != nil {
		return err
	}
	return m.serve(p, attach)
}

// prepare takes alive and opens what the container needs around it.
func (m *monitor) prepare() error {
	job, unmap, err := readJob(m.jobFD)
	if err != nil {
		return err
	}
	m.job = *job
	m.job.Plan, m.job.Net, m.job.Health.Plan = nil, slices.Clone(m.job.Net), nil
	m.job.Log.Forward.IP = slices.Clone(m.job.Log.Forward.IP)
	unmap()
	if err := m.takeAlive(); err != nil {
		return err
	}
	if err := m.openLog(); err != nil {
		return err
	}
	m.adj = ownScore()
	if err := m.listen(); err != nil {
		return err
	}
	return m.prepareNet()
}

// openLog opens what the container's output goes to.
func (m *monitor) openLog() (err error) {
	l := &m.job.Log
	if l.Driver == "none" {
		return nil
	}
	o := jsonfile.Options{Path: l.Path, MaxSize: l.MaxSize, MaxFile: l.MaxFile, Attrs: l.Attrs}
	if f := l.Forward; f.Net != "" {
		m.forward, err = forward.Open(forward.Options{
			Net: f.Net, Path: f.Path, IP: f.IP, Port: f.Port,
			Fields: f.Fields, Format: f.Format, Facility: f.Facility, Tag: f.Tag, Hostname: f.Hostname,
			Dial: m.dialTLS,
		})
		if err != nil {
			return errs.E("failed to initialize logging driver", errs.Invalid, err)
		}
		o.Also = func(text []byte, stream string, now time.Time, ended bool) {
			m.forward.Send(text, stream == "stderr", now, ended)
		}
	}
	if len(l.Compress) > 0 {
		o.Compress = m.compress
	}
	m.log, err = jsonfile.Open(o)
	return err
}

// takeAlive waits for the lock: `ps` holds it for moments to see who lives.
func (m *monitor) takeAlive() error {
	path := m.job.Dir + "/alive"
	fd, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = again(func() (int, error) { return 0, syscall.Flock(fd, syscall.LOCK_EX) })
	if err != nil {
		_ = syscall.Close(fd) // never written
		return &os.PathError{Op: "flock", Path: path, Err: err}
	}
	m.alive = fd
	// Who holds it, for the case that the run directory, where state.json is, gets
	// lost: systemd removes a user's at his last logout.
	m.pidStart = startTime(os.Getpid())
	who := strconv.AppendUint(append(strconv.AppendInt(nil, int64(os.Getpid()), 10), ' '), m.pidStart, 10)
	if err := syscall.Ftruncate(fd, 0); err != nil {
		return &os.PathError{Op: "truncate", Path: path, Err: err}
	}
	if _, err := again(func() (int, error) { return syscall.Write(fd, append(who, '\n')) }); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// readJob maps the job that fd holds. Its plan shares the mapping.
func readJob(fd int) (*wire.Job, func(), error) {
	mem, unmap, err := mapAll(fd)
	if err != nil {
		return nil, nil, err
	}
	job := new(wire.Job)
	if err := wire.Unmarshal(mem, job); err != nil {
		unmap()
		return nil, nil, err
	}
	return job, unmap, nil
}

// mapAll maps the content of a memfd.
func mapAll(fd int) ([]byte, func(), error) {
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return nil, nil, os.NewSyscallError("fstat", err)
	}
	mem, err := syscall.Mmap(fd, 0, int(st.Size), syscall.PROT_READ, syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, os.NewSyscallError("mmap", err)
	}
	return mem, func() { _ = syscall.Munmap(mem) }, nil // our own mapping
}

// gated is a child that waits at its gate, with what is freed once it runs.
type gated struct {
	*launch.Proc
	unmap func()
}

// clone makes the container's child, with its pipes or its terminal.
func (m *monitor) clone() (*proc, gated, error) {
	job, unmap, err := readJob(m.jobFD)
	if err != nil {
		return nil, gated{}, err
	}
	plan, err := wire.UnmarshalPlan(job.Plan)
	if err != nil {
		unmap()
		return nil, gated{}, err
	}
	p := &proc{m: m, stdin: -1, master: -1, container: true, tty: m.job.TTY}
	m.oomBase = m.oomKills()
	child, err := p.launch(plan, m.extra, m.job.OpenStdin)
	if err != nil {
		unmap()
		return nil, gated{}, err
	}
	return p, gated{child, unmap}, nil
}

// askedStill fails if the client has died or given up meanwhile.
func (m *monitor) askedStill() error {
	var b [1]byte
	n, _, err := syscall.Recvfrom(Control, b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	if n == 0 && !blocked(err) {
		return errGone
	}
	return nil
}

// awaitStart says that the child waits, and waits for the word of the client,
// who may size the terminal first.
func (m *monitor) awaitStart(p *proc) error {
	if err := send(Control, wire.Marshal(&wire.Created{PID: p.pid})); err != nil {
		return errGone
	}
	for {
		packet, fds, err := receive(Control, m.buf)
		closeAll(fds)
		if err != nil {
			return errGone
		}
		switch wire.KindOf(packet) {
		case wire.KindStart:
			return nil
		case wire.KindResize:
			var r wire.Resize
			if wire.Unmarshal(packet, &r) == nil {
				p.resize(r.Rows, r.Cols)
			}
		}
	}
}

// release lets the child execute its program.
func (m *monitor) release(p *proc, g gated) error {
	defer g.unmap()
	if g.Gated {
		if err := g.Release(); err != nil {
			p.close()
			return err
		}
	}
	// The descriptors are p's from here on; the rest of g is garbage.
	m.now = time.Now()
	m.startedAt = m.now
	m.shared = link("/proc/self/ns/pid") == link("/proc/"+strconv.Itoa(p.pid)+"/ns/pid")
	if m.job.Timeout > 0 {
		m.killAt = m.now.Add(time.Duration(m.job.Timeout) * time.Second)
	}
	m.main = p
	p.watch()
	_ = m.writeState("running")
	m.beginHealth()
	m.started()
	m.keepRoom()
	return nil
}

// serve says that the container runs, and begins to listen to everybody.
func (m *monitor) serve(p *proc, a wire.Attach) error {
	c := m.control
	m.clients = append(m.clients, c)
	if err := syscall.SetNonblock(c.fd, true); err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	c.join(p, a)
	c.push(wire.Marshal(&wire.Running{PID: p.pid, StartedAt: m.startedAt.UnixNano()}))
	if !a.Stdin && !a.Stdout && !a.Stderr {
		m.control = nil // it goes now, and will not see the end: what is left then is ours to do
	}
	m.watch(m.listener, syscall.EPOLLIN, acceptor{m})
	return nil
}

// restart runs the plan again.
func (m *monitor) restart() {
	m.restartAt = time.Time{}
	if !m.policy(0, true) {
		m.over()
		return
	}
	m.restarts++
	err := m.startAgain()
	if err == nil {
		return
	}
	m.now = time.Now()
	f := failure(err)
	m.note("restart: " + err.Error())
	m.writeExit(exit{code: f.Code, err: f.Text, started: m.startedAt, finished: m.now, restarts: m.restarts})
	if len(m.job.Joined) > 0 && errors.Is(err, syscall.ESRCH) && m.policy(f.Code, false) {
		m.restartAt = m.now.Add(m.pause(0)) // the other one may be on its way, too
		return
	}
	m.over()
}

func (m *monitor) startAgain() error {
	if err := m.joinAgain(); err != nil {
		return err
	}
	p, g, err := m.clone()
	if err != nil {
		return err
	}
	if err := m.connect(p); err != nil {
		g.Abort()
		return err
	}
	return m.release(p, g)
}

// joinAgain finds the processes anew whose namespaces the container joins.
func (m *monitor) joinAgain() error {
	for i, path := range m.job.Joined {
		text, _ := readSmall(path) // none: it does not run
		pid, start := running(text)
		fd, err := raw.PidfdOpen(pid)
		if err != nil || startTime(pid) != start { // looked at last: now fd's process is meant, or one that is gone
			m.shut(&fd)
			return errs.E("join the namespaces of a container that is not running", errs.Conflict, syscall.ESRCH)
		}
		old := &m.extra[wire.SlotUser0+i]
		m.shut(old)
		*old = fd
	}
	return nil
}

// failure turns an error from before the container's program into words.
func failure(err error) *wire.Failed {
	f := &wire.Failed{Reason: errs.KindOf(err), Code: 125, Text: err.Error(), Hint: errs.HintOf(err)}
	var step *launch.StepError
	if errors.As(err, &step) {
		f.Code = step.ExitCode()
		if f.Reason == errs.Internal {
			f.Reason = kindOf(step)
		}
		switch {
		case step.What == "mount /proc" && step.Errno == syscall.EPERM:
			// The kernel gives no full /proc to whom it shows only parts.
			f.Hint = "Inside a container? Start the outer one with --security-opt seccomp=unconfined --security-opt systempaths=unconfined (podman: unmask=ALL)."
		case (step.Errno == syscall.EINVAL || step.Errno == syscall.ENOTDIR) && binds(step.What):
			f.Hint = "Are you trying to mount a directory onto a file (or vice-versa)? Check that the host's path is what you expect."
		}
	} else if f.Reason == errs.Internal && (errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS)) {
		f.Reason = errs.Denied
	}
	return f
}

// binds tells "mount SOURCE at TARGET" from a step that mounts what has no source.
func binds(what string) bool {
	_, _, ok := cut(what, " at /")
	return ok
}

func kindOf(e *launch.StepError) errs.Kind {
	switch {
	case e.ExitCode() == 127:
		return errs.NotFound
	case e.Errno == syscall.EACCES || e.Errno == syscall.EPERM:
		return errs.Denied
	case e.Errno == syscall.ENOSYS || e.Errno == syscall.ENODEV:
		return errs.Unsupported
	case e.Phase == launch.PhaseExec:
		return errs.Invalid
	}
	return errs.Internal
}

// fail ends a monitor whose container never ran.
func (m *monitor) fail(err error) {
	m.now = time.Now()
	f := failure(err)
	if m.alive >= 0 && !errors.Is(err, errGone) {
		m.writeExit(exit{code: f.Code, err: f.Text, finished: m.now, restarts: m.restarts})
	}
	m.withdraw()
	_ = send(Control, wire.Marshal(f)) // who is not there does not want to know
}

// ownScore keeps the OOM killer off the monitor, if it may, and returns what the
// container is to get instead.
func ownScore() string {
	was, err := readSmall("/proc/self/oom_score_adj")
	if err != nil || setScore("-1000") != nil {
		return "" // an ordinary user may only raise it
	}
	return was
}

func setScore(v string) error {
	return writeSmall("/proc/self/oom_score_adj", v)
}

// link returns what a symbolic link says; empty if it cannot be read.
func link(path string) string {
	s, _ := os.Readlink(path) // two that cannot be read are taken for equal
	return s
}

// writeSmall writes a file of the kernel's in one write.
func writeSmall(path, v string) error {
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = again(func() (int, error) { return syscall.Write(fd, []byte(v)) })
	_ = syscall.Close(fd) // the write told
	return err
}

// readSmall reads a file of the kernel's, of 4 kB at most, without the newline at
// its end.
func readSmall(path string) (string, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	var b [4096]byte
	n, err := again(func() (int, error) { return syscall.Read(fd, b[:]) })
	_ = syscall.Close(fd) // only read
	if err != nil {
		return "", err
	}
	for n > 0 && b[n-1] == '\n' {
		n--
	}
	return string(b[:n]), nil
}

// backlog is how many clients may wait to be heard: as many as the kernel lets
// (net.core.somaxconn); one too many is told that the monitor is busy.
const backlog = 4096

// listen makes the socket in the run directory, by way of a descriptor: the path
// of a socket is limited to 107 bytes.
func (m *monitor) listen() error {
	dir, err := syscall.Open(m.job.RunDir, oPath|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: m.job.RunDir, Err: err}
	}
	defer func() { _ = syscall.Close(dir) }()    // O_PATH
	_ = syscall.Unlink(m.job.RunDir + "/attach") // a dead monitor's; bind tells if it could not be
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	m.listener = fd
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: "/proc/self/fd/" + strconv.Itoa(dir) + "/attach"}); err != nil {
		return &os.PathError{Op: "bind", Path: m.job.RunDir + "/attach", Err: err}
	}
	return os.NewSyscallError("listen", syscall.Listen(fd, backlog))
}

// windowSize is a variable part of resize: zero means unknown.
func setSize(fd int, rows, cols uint16) {
	if fd >= 0 && rows > 0 && cols > 0 {
		_ = raw.SetWindowSize(fd, rows, cols) // a terminal that hung up has no size
	}
}
