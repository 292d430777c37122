package monitor

import (
	"os"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/logs/jsonfile"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// proc is a process that the monitor started: the container's first one, or an
// exec.
type proc struct {
	m         *monitor
	pid       int
	pidfd     int
	mntns     int
	master    int // the terminal, or -1
	stdin     int // where input is written: a pipe, or the terminal once more; -1: nowhere
	tty       bool
	container bool
	probe     bool // of the container's health
	outs      []*source
	leaving   bool   // it has ended: its last output waits for no client
	id        string // an exec's, for events
}

// source is a pipe or a terminal that a process writes to.
type source struct {
	p      *proc
	fd     int
	stream wire.Kind
	log    *jsonfile.Stream // nil: not logged
}

// run launches p, and lets it go on at once where its plan waits.
func (p *proc) run(plan *wire.Plan, slots [wire.NumSlots]int, stdin bool) error {
	child, err := p.launch(plan, slots, stdin)
	if err == nil && child.Gated {
		if err = child.Release(); err != nil {
			p.close()
		}
	}
	return err
}

// launch carries plan out with stdio as p wants it. slots are further
// descriptors; stdin says whether there is one.
func (p *proc) launch(plan *wire.Plan, slots [wire.NumSlots]int, stdin bool) (*launch.Proc, error) {
	var theirs []int
	defer func() { closeAll(theirs) }()
	if !p.tty {
		if stdin {
			in, err := pipe(1)
			if err != nil {
				return nil, err
			}
			p.stdin, slots[wire.SlotStdin] = in[1], in[0]
			theirs = append(theirs, in[0])
		}
		for _, stream := range []wire.Kind{wire.Stdout, wire.Stderr} {
			out, err := pipe(0)
			if err != nil {
				p.close()
				return nil, err
			}
			slots[int(stream)] = out[1] // SlotStdout is 1 as Stdout is, SlotStderr 2
			theirs = append(theirs, out[1])
			p.outs = append(p.outs, &source{p: p, fd: out[0], stream: stream})
		}
	}
	if p.m.adj != "" {
		_ = setScore(p.m.adj) // what the child inherits; raising always works
	}
	child, err := launch.Start(plan, &slots)
	if p.m.adj != "" {
		_ = setScore("-1000") // it worked before
	}
	if err != nil {
		p.close()
		return nil, err
	}
	p.adopt(child, stdin)
	return child, nil
}

// adopt takes over the child's handles.
func (p *proc) adopt(child *launch.Proc, stdin bool) {
	p.pid, p.pidfd, p.mntns, p.master = child.PID, child.PidFD, child.MntNS, child.Master
	if p.master >= 0 {
		_ = syscall.SetNonblock(p.master, true) // a terminal's master: cannot fail
		p.outs = []*source{{p: p, fd: p.master, stream: wire.Stdout}}
		if stdin {
			// A descriptor of its own, so that each direction is watched for itself.
			if fd, err := dup(p.master); err == nil {
				p.stdin = fd
			}
		}
	}
	if p.container && p.m.log != nil {
		for _, s := range p.outs {
			s.log = p.m.log.Stream(name(s.stream))
		}
	}
}

func dup(fd int) (int, error) {
	r, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

func name(stream wire.Kind) string {
	if stream == wire.Stderr {
		return "stderr"
	}
	return "stdout"
}

// watch begins to listen to the process.
func (p *proc) watch() {
	p.m.watch(p.pidfd, syscall.EPOLLIN, p)
	for _, s := range p.outs {
		p.m.watch(s.fd, syscall.EPOLLIN, s)
	}
}

// ready is the process's end.
func (p *proc) ready(uint32) {
	var status syscall.WaitStatus
	pid, err := again(func() (int, error) { return syscall.Wait4(p.pid, &status, syscall.WNOHANG, nil) })
	if err == nil && pid != p.pid {
		return // a thread other than the first one executed a program: not the end
	}
	p.exited(code(status))
}

// code returns Docker's number for how a process ended.
func code(status syscall.WaitStatus) int {
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// exited ends p, after its last output.
func (p *proc) exited(code int) {
	if p.leaving {
		return
	}
	p.leaving = true
	if p.container {
		p.m.containerExited(p, code)
		return
	}
	p.drain()
	if p.probe {
		p.m.probeEnded(code)
	}
	if p.id != "" {
		p.m.tell("exec_die", "execID", p.id, "exitCode", strconv.Itoa(code))
	}
	for i, e := range p.m.execs {
		if e == p {
			p.m.execs = append(p.m.execs[:i], p.m.execs[i+1:]...)
			break
		}
	}
	p.m.writeExecs(p)
	p.announce(&wire.Exited{Code: code})
	p.close()
}

// announce tells p's clients that it has ended, as the last thing they hear.
func (p *proc) announce(e *wire.Exited) {
	for _, c := range p.m.clients {
		if c.p != p {
			continue
		}
		mine := *e
		mine.Cleanup = e.Cleanup && c == p.m.control
		c.last(wire.Marshal(&mine))
	}
}

// pipeBuffers is how many pieces a pipe holds at most: fs.pipe-max-size in pages. A
// read takes one or more of them.
const pipeBuffers = 256

// drain reads what p has left in its output, and no more: a process that escaped may
// keep the pipe open, and full, for ever.
func (p *proc) drain() {
	for _, s := range p.outs {
		for range pipeBuffers {
			if s.fd < 0 || !s.read() {
				break
			}
		}
		s.end()
	}
}

// ready is output, or its end.
func (s *source) ready(uint32) { s.read() }

// read takes one piece of output and hands it on. It reports whether there may
// be more at once.
func (s *source) read() bool {
	m := s.p.m
	n, err := again(func() (int, error) { return syscall.Read(s.fd, m.buf[1:]) })
	switch {
	case blocked(err):
		return false
	case err != nil || n == 0: // EIO: the terminal's other end is closed
		s.end()
		return false
	}
	m.buf[0] = byte(s.stream)
	if s.p.probe {
		m.health.said(m.buf[1 : 1+n])
	}
	if s.log != nil {
		s.log.Write(m.buf[1:1+n], m.now)
	}
	waits := false
	for _, c := range m.clients {
		if c.p == s.p && c.wants(s.stream) {
			c.push(m.buf[:1+n])
			waits = waits || len(c.queue) > 0
		}
	}
	if waits && !s.p.leaving {
		m.watch(s.fd, 0, nil) // until resume
	}
	return true
}

// end closes the source. A terminal stays open for its size.
func (s *source) end() {
	if s.fd < 0 {
		return
	}
	if s.log != nil {
		s.log.End(s.p.m.now)
	}
	if s.fd == s.p.master {
		s.p.m.watch(s.fd, 0, nil)
		s.fd = -1
		return
	}
	s.p.m.shut(&s.fd)
}

// resume listens to p's output again, unless a client still has not taken what
// there was.
func (p *proc) resume() {
	if p.leaving {
		return
	}
	for _, c := range p.m.clients {
		if c.p == p && len(c.queue) > 0 {
			return
		}
	}
	for _, s := range p.outs {
		p.m.watch(s.fd, syscall.EPOLLIN, s)
	}
}

// input is the writing end of p's stdin, which has room again.
type input struct{ p *proc }

func (i input) ready(uint32) {
	for _, c := range i.p.m.clients {
		if c.p == i.p && c.pending != nil {
			c.feed(nil)
			if c.pending != nil {
				return
			}
		}
	}
	i.p.m.watch(i.p.stdin, 0, nil)
}

// closeStdin ends the process's input.
func (p *proc) closeStdin() { p.m.shut(&p.stdin) }

// signal sends sig. A process that has ended is none of our business.
func (p *proc) signal(sig syscall.Signal) {
	if p.pidfd >= 0 {
		_ = raw.PidfdSignal(p.pidfd, sig)
		return
	}
	_ = syscall.Kill(p.pid, sig) // our own child, not reaped: the number is its own
}

func (p *proc) resize(rows, cols uint16) { setSize(p.master, rows, cols) }

// close gives up all descriptors but the mount namespace.
func (p *proc) close() {
	p.closeStdin()
	for _, s := range p.outs {
		s.end()
	}
	p.m.shut(&p.master)
	if p.pid > 0 {
		p.m.shut(&p.pidfd)
	}
	if !p.container {
		p.closeMounts()
	}
}

// closeMounts lets the kernel tear the container's mounts down, which may take
// long: see launch.Proc.
func (p *proc) closeMounts() {
	if p.pid > 0 {
		p.m.shut(&p.mntns)
	}
}

// reapOrphans reaps processes that the container left to us, and only those: a
// process that we know has a descriptor that tells of its end.
func (m *monitor) reapOrphans() {
	for range 1000 {
		var status syscall.WaitStatus
		pid, err := again(func() (int, error) { return syscall.Wait4(-1, &status, syscall.WNOHANG, nil) })
		if err != nil || pid <= 0 {
			return
		}
		if m.main != nil && m.main.pid == pid {
			m.main.exited(code(status))
		}
		for _, e := range m.execs {
			if e.pid == pid {
				e.exited(code(status))
				break
			}
		}
		if c := m.child(pid); c != nil {
			c.exited(status)
		}
	}
}

// startTime returns field 22 of /proc/PID/stat, by which a pid that is used again
// is told from the one that it was.
func startTime(pid int) uint64 {
	s, err := readSmall("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The second field is in parentheses and may hold anything, also parentheses.
	end := len(s)
	for end > 0 && s[end-1] != ')' {
		end--
	}
	field := 2
	for i := end; i < len(s); i++ {
		if s[i] != ' ' {
			continue
		}
		if field++; field == 22 {
			j := i + 1
			for j < len(s) && s[j] != ' ' {
				j++
			}
			v, _ := strconv.ParseUint(s[i+1:j], 10, 64) // the kernel wrote it
			return v
		}
	}
	return 0
}

// policy returns whether the restart policy, as settings.json has it now, wants
// the container again after an exit with code. due says that it has been decided
// and only the user can have changed his mind.
func (m *monitor) policy(code int, due bool) (again bool) {
	policy, byUser := m.job.Restart, false
	if s, err := os.ReadFile(m.job.Dir + "/settings.json"); err == nil {
		byUser, policy = settings(s, policy)
		m.rename(s)
		v, ok := after(string(s), `"keep"`)
		m.keep = ok && hasPrefix(v, "true")
	}
	byUser = byUser || m.dismissed
	if m.revive {
		m.revive = !due
		return !byUser
	}
	switch {
	case byUser:
		return false
	case policy.Name == "always" || policy.Name == "unless-stopped":
		return true
	case policy.Name == "on-failure":
		return due || code != 0 && (policy.Max <= 0 || m.restarts < policy.Max)
	}
	return false
}

// Back-off between restarts, as Docker does it.
const (
	firstPause = 100 * time.Millisecond
	longest    = time.Minute
	stable     = 10 * time.Second // a run as long as this starts the pauses over
)

// pause returns how long to wait before the next restart.
func (m *monitor) pause(ran time.Duration) time.Duration {
	if m.backoff == 0 || ran >= stable {
		m.backoff = firstPause
	} else {
		m.backoff = min(2*m.backoff, longest)
	}
	return m.backoff
}
