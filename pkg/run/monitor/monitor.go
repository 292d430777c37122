// Package monitor is the parent of one container: it owns the container's stdio
// and log, the socket for attaching and for further processes, the exit record
// and the restart policy. One lives beside each running container, so it is one
// thread around one epoll, with fixed buffers, and imports next to nothing.
//
// What it promises:
//
//   - Every byte that the container wrote is in the log, and at every client that
//     reads, before the exit is announced.
//   - exit.json is written before the exit is announced and before alive is free.
//   - The client that started the container (`run` in the foreground) gets every
//     byte: while it does not read, the container's pipe fills, as with Docker. So
//     does the client of an exec, with the pipe of that. Any other client holds the
//     container up for [stall] at most, then it is dropped.
//   - The container's end never waits for a client: what is in the pipes then is
//     kept for those who are slow, after alive has been released.
//   - If the monitor dies, the kernel kills the container.
package monitor

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/forward"
	"cais.dev/cais/pkg/logs/jsonfile"
	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

const (
	// Control is the descriptor on which the monitor is asked to start.
	Control = 3

	// stall is how long a client that does not read may hold the container up.
	stall = 5 * time.Second

	maxClients = 256
	maxFDs     = 253 // beside one message: the kernel's SCM_MAX_FD
)

// monitor is the state of the process.
type monitor struct {
	job     wire.Job // without its plan
	jobFD   int      // memfd of the job, for the plan
	extra   [wire.NumSlots]int
	alive   int
	log     *jsonfile.Writer
	forward *forward.Conn // nil: no log driver that sends

	ep       int
	slots    []slot // by descriptor
	gen      int32
	listener int
	now      time.Time // of this turn of the loop

	net      *plane.Plane // nil: the network is none of ours
	netLoop  *loop.Loop   // waits for its descriptors and, through ep, for ours
	held     []int        // descriptors that the job's network names
	lingerAt time.Time    // when the last connections are broken off
	netStart []string     // events of a start, and of an end, for the networks
	netEnd   []string

	main     *proc // the container; nil while it waits for its restart
	execs    []*proc
	children []*child
	clients  []*client
	control  *client // who started us and stays; nil once gone
	buf      []byte  // one packet: the stream's byte, then what was read
	shared   bool    // the container has no pid namespace of its own
	adj      string  // the oom_score_adj that the container gets; empty: the monitor could not lower its own
	oomBase  int64   // OOM kills before this run
	bootID   string
	pidStart uint64 // of the monitor

	startedAt time.Time
	restarts  int
	backoff   time.Duration
	restartAt time.Time // zero: no restart is due
	killAt    time.Time // --timeout
	openAt    time.Time // the listener is watched again; zero: it is
	health    health
	revive    bool // it is started again once, whatever the policy
	paused    bool
	stopped   bool // by SIGSTOP, for want of a freezer
	dismissed bool // the user has stopped it: it is not started again
	ended     bool // alive has been released; only clients are left
	keep      bool // the user restarts it: --rm waits
	cleanup   bool // nobody else removes the container
}

// handler is what a watched descriptor belongs to.
type handler interface{ ready(events uint32) }

// slot is a watched descriptor. Its number may be used again within one batch
// of events; gen tells the old one from the new.
type slot struct {
	h      handler
	events uint32
	gen    int32
}

// Main is the whole life of a monitor. It returns the exit status.
func Main() (code int) {
	runtime.LockOSThread() // the container dies with this thread: PR_SET_PDEATHSIG
	m := &monitor{
		jobFD: -1, alive: -1, ep: -1, listener: -1,
		buf: make([]byte, wire.MaxPacket), now: time.Now(),
	}
	for i := range m.extra {
		m.extra[i] = -1
	}
	defer func() {
		if r := recover(); r != nil {
			m.note("panic: " + text(r) + "\n" + stack())
			code = 2
		}
	}()
	return m.live()
}

// live runs from the first message to the end.
func (m *monitor) live() int {
	syscall.CloseOnExec(Control)
	_, _ = syscall.Setsid() // done already by those who start us properly
	_ = syscall.Chdir("/")  // so that no mount is held; "/" cannot fail
	_ = raw.Subreaper()     // Linux 3.4
	for _, sig := range ignored() {
		raw.Ignore(sig)
	}
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return 1
	}
	m.ep = ep
	m.control = &client{m: m, fd: Control, lossless: true}
	if err := m.begin(); err != nil {
		m.fail(err)
		return 1
	}
	m.loop()
	m.finish()
	return 0
}

// ignored are the signals that would end a Go program. A monitor ends with its
// container: whoever wants that ends the container. (Passing SIGTERM on would be
// better, but a Go program can only do so with package os/signal, since the
// runtime lets no thread block it.)
func ignored() []syscall.Signal {
	return []syscall.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGIO, syscall.SIGPWR,
	}
}

// watch sets the events that h is told of for fd; none ends it.
func (m *monitor) watch(fd int, events uint32, h handler) {
	if fd < 0 {
		return
	}
	for fd >= len(m.slots) {
		m.slots = append(m.slots, slot{})
	}
	s := &m.slots[fd]
	op := syscall.EPOLL_CTL_MOD
	switch {
	case s.events == events && (events == 0 || s.h == h):
		return
	case s.events == 0:
		op = syscall.EPOLL_CTL_ADD
		m.gen++
		s.gen = m.gen
	case events == 0:
		op = syscall.EPOLL_CTL_DEL
	}
	if events == 0 {
		h = nil
	}
	s.h, s.events = h, events
	ev := syscall.EpollEvent{Events: events, Fd: int32(fd), Pad: s.gen}
	if err := syscall.EpollCtl(m.ep, op, fd, &ev); err != nil {
		m.note("epoll_ctl: " + err.Error())
	}
}

// shut stops watching fd and closes it.
func (m *monitor) shut(fd *int) {
	if *fd < 0 {
		return
	}
	m.watch(*fd, 0, nil)
	_ = syscall.Close(*fd) // sockets, pipes and handles: nothing is flushed here
	*fd = -1
}

// loop serves until the container has ended for good and no client waits for
// anything.
func (m *monitor) loop() {
	var events [16]syscall.EpollEvent
	turn := func(ms int) error {
		n, err := syscall.EpollWait(m.ep, events[:], ms)
		if err != nil && err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return err
		}
		m.now = time.Now()
		for _, ev := range events[:max(n, 0)] {
			if s := m.slots[ev.Fd]; s.h != nil && s.gen == ev.Pad {
				s.h.ready(ev.Events)
			}
		}
		return nil
	}
	if m.netLoop != nil {
		if err := m.netLoop.Watch(m.ep, loop.In, ownEvents{turn}); err != nil {
			m.note(err.Error())
			return
		}
	}
	for !m.ended || len(m.clients) > 0 || len(m.execs) > 0 || m.lingers() {
		var err error
		if m.netLoop != nil {
			err = m.netLoop.Turn(m.timeout())
			m.now = m.netLoop.Now()
		} else {
			err = turn(m.timeout())
		}
		if err != nil {
			m.note("epoll_wait: " + err.Error())
			return
		}
		m.timers()
		m.sweep()
	}
}

// ownEvents are the monitor's own, within those of the network: a byte on its way
// through a relay passes one epoll, a line of output two.
type ownEvents struct{ turn func(ms int) error }

// Ready handles them.
func (o ownEvents) Ready(uint32) { _ = o.turn(0) } // an epoll that does not wait does not fail

// timeout returns how long the loop may sleep, in milliseconds; -1: for ever.
func (m *monitor) timeout() int {
	var next time.Time
	sooner := func(t time.Time) {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	sooner(m.restartAt)
	sooner(m.killAt)
	sooner(m.openAt)
	if !m.paused {
		sooner(m.health.nextAt)
		sooner(m.health.killAt)
	}
	sooner(m.lingerAt)
	for _, c := range m.clients {
		sooner(c.dropAt)
	}
	if m.shared && m.main != nil {
		// Orphans of the container become our children, and no descriptor tells when
		// they end.
		sooner(m.now.Add(10 * time.Second))
	}
	if next.IsZero() {
		return -1
	}
	return int(max(0, (time.Until(next)+time.Millisecond-1)/time.Millisecond))
}

// timers does what is due.
func (m *monitor) timers() {
	if !m.killAt.IsZero() && !m.now.Before(m.killAt) {
		m.killAt = time.Time{}
		if m.main != nil {
			m.note("killed after " + strconv.Itoa(m.job.Timeout) + " s (--timeout)")
			m.main.signal(syscall.SIGKILL)
		}
	}
	if !m.restartAt.IsZero() && !m.now.Before(m.restartAt) {
		m.restart()
	}
	m.checkHealth()
	if !m.openAt.IsZero() && !m.now.Before(m.openAt) {
		m.openAt = time.Time{}
		m.watch(m.listener, syscall.EPOLLIN, acceptor{m})
	}
	for _, c := range m.clients {
		if !c.dropAt.IsZero() && !m.now.Before(c.dropAt) {
			m.note("a client was dropped: it did not read for " + strconv.Itoa(int(stall/time.Second)) + " s")
			c.hangUp()
		}
	}
	if m.shared {
		m.reapOrphans()
	}
}

// sweep forgets the clients that are gone.
func (m *monitor) sweep() {
	kept := m.clients[:0]
	for _, c := range m.clients {
		if c.fd >= 0 || c.pending != nil {
			kept = append(kept, c)
			continue
		}
		if m.control == c {
			m.control = nil
		}
	}
	clear(m.clients[len(kept):])
	m.clients = kept
}

// note appends a line to monitor.log, which exists only if there is something to
// say.
func (m *monitor) note(line string) {
	if m.job.Dir == "" {
		return
	}
	fd, err := syscall.Open(m.job.Dir+"/monitor.log", syscall.O_WRONLY|syscall.O_APPEND|syscall.O_CREAT|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return // there is nobody left to tell
	}
	_, _ = syscall.Write(fd, []byte(time.Now().UTC().Format(time.RFC3339)+" "+line+"\n")) // likewise
	_ = syscall.Close(fd)                                                                 // likewise
}

func text(r any) string {
	switch r := r.(type) {
	case error:
		return r.Error()
	case string:
		return r
	}
	return "of an unknown kind"
}

func stack() string {
	b := make([]byte, 8<<10)
	return string(b[:runtime.Stack(b, false)])
}

// again repeats a system call that a signal interrupted.
func again(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return n, err
		}
	}
}

// blocked reports whether a system call on a non-blocking descriptor would have
// had to wait.
func blocked(err error) bool { return err == syscall.EAGAIN } //nolint:errorlint // a system call's own errno

// pipe returns a pipe whose end at ours (0: reading, 1: writing) does not block.
func pipe(ours int) ([2]int, error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return p, os.NewSyscallError("pipe2", err)
	}
	return p, os.NewSyscallError("fcntl", syscall.SetNonblock(p[ours], true))
}
