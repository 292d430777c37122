package monitor

import (
	"os"
	"slices"
	"syscall"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// client is one connection.
type client struct {
	m        *monitor
	fd       int   // -1: closed
	p        *proc // what it is attached to; nil: nothing yet
	lossless bool  // it may hold the container up for as long as it likes

	stdin, stdout, stderr bool
	queue                 [][]byte // packets that it has not taken
	dropAt                time.Time
	closing               bool // once the queue is empty
	deaf                  bool // it reads no more

	held    []int  // descriptors for the next message
	pending []byte // input that the process has not taken; nil: none
	eof     bool   // after it, the client's input ends
}

// wants reports whether c follows stream.
func (c *client) wants(stream wire.Kind) bool {
	return c.fd >= 0 && !c.closing && !c.deaf && (stream == wire.Stdout && c.stdout || stream == wire.Stderr && c.stderr)
}

// acceptor is the socket in the run directory.
type acceptor struct{ m *monitor }

func (a acceptor) ready(uint32) {
	m := a.m
	fd, _, err := syscall.Accept4(m.listener, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK)
	if err == syscall.EMFILE || err == syscall.ENFILE { //nolint:errorlint // a system call's own errno
		// Who knocks cannot be let in, and epoll would tell of him again at once.
		m.watch(m.listener, 0, nil)
		m.openAt = m.now.Add(time.Second)
		return
	}
	if err != nil {
		return // it gave up before we looked
	}
	// The directory is 0700; this is the second line, for a directory that
	// somebody opened up.
	cred, err := syscall.GetsockoptUcred(fd, syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() || len(m.clients) >= maxClients {
		_ = syscall.Close(fd) // nothing was said
		return
	}
	c := &client{m: m, fd: fd}
	m.clients = append(m.clients, c)
	c.update()
}

// update watches for what c is good for now.
func (c *client) update() {
	events := uint32(syscall.EPOLLERR) // which is told anyway, as is a hang-up: c stays watched
	if c.pending == nil && !c.eof {
		events |= syscall.EPOLLIN
	}
	if len(c.queue) > 0 {
		events |= syscall.EPOLLOUT
	}
	c.m.watch(c.fd, events, c)
}

// ready is a packet, room for one, or the end.
func (c *client) ready(events uint32) {
	if events&syscall.EPOLLOUT != 0 {
		c.flush()
	}
	if c.fd < 0 {
		return
	}
	if c.pending != nil || c.eof {
		// Its input waits, so it is not read from; that it hung up shows here only.
		if events&(syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
			c.forget()
			if c.eof && c.pending == nil {
				c.hangUp()
				return
			}
			c.m.watch(c.fd, 0, nil)
		}
		return
	}
	if events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) == 0 {
		return
	}
	packet, fds, err := receive(c.fd, c.m.buf)
	if blocked(err) {
		return
	}
	if err != nil {
		c.hangUp()
		return
	}
	if wire.KindOf(packet) == wire.KindHold {
		c.held = append(c.held, fds...)
		return
	}
	c.handle(packet, fds)
	closeAll(fds)
}

// handle does what a packet asks for.
func (c *client) handle(packet []byte, fds []int) {
	switch wire.KindOf(packet) {
	case wire.Stdin:
		if c.stdin && c.p != nil && c.p.stdin >= 0 && len(packet) > 1 {
			c.feed(packet[1:])
		}
	case wire.StdinEOF:
		c.eof = true
		c.inputEnded()
		c.eof = false
	case wire.KindResize:
		var r wire.Resize
		if wire.Unmarshal(packet, &r) == nil && c.p != nil {
			c.p.resize(r.Rows, r.Cols)
		}
	case wire.KindSignal:
		var s wire.Signal
		if wire.Unmarshal(packet, &s) == nil && c.p != nil && s.Number > 0 && s.Number <= 64 {
			c.p.signal(syscall.Signal(s.Number))
		}
	case wire.KindAttach:
		c.attach(packet)
	case wire.KindExec:
		c.exec(packet, fds)
	case wire.KindNetwork:
		c.network(fds)
	case wire.KindPause:
		c.pauseRequest(packet)
	case wire.KindReload:
		var r wire.Reload
		c.m.dismissed = wire.Unmarshal(packet, &r) == nil && r.Stopped || c.m.dismissed
		c.last(wire.Marshal(&wire.Done{}))
		c.m.reload()
	}
}

// attach answers a request for the container's streams.
func (c *client) attach(packet []byte) {
	var a wire.Attach
	if err := wire.Unmarshal(packet, &a); err != nil {
		c.refuse(err)
		return
	}
	p := c.m.main
	if p == nil || c.p != nil {
		c.refuse(errs.New(errs.Conflict, "the container is restarting"))
		return
	}
	c.join(p, a)
	c.push(wire.Marshal(&wire.Attached{PID: p.pid, TTY: p.tty, OpenStdin: c.m.job.OpenStdin}))
	p.resize(a.Rows, a.Cols)
}

// join makes c a client of p.
func (c *client) join(p *proc, a wire.Attach) {
	c.p, c.stdin, c.stdout, c.stderr = p, a.Stdin, a.Stdout, a.Stderr
	c.update()
}

// exec answers a request for another process.
func (c *client) exec(packet []byte, fds []int) {
	var e wire.Exec
	err := wire.Unmarshal(packet, &e)
	if err == nil && (len(fds) == 0 || len(fds) != 1+len(e.Slots)) {
		err = errs.New(errs.Internal, "wire: a request without its descriptors")
	}
	if err == nil && (c.m.main == nil || c.p != nil) {
		err = errs.New(errs.Conflict, "the container is not running")
	}
	if err == nil && c.m.paused { // the process would freeze half-way, and this one wait for it
		err = errs.New(errs.Conflict, "the container is paused, unpause the container before exec")
	}
	if err != nil {
		c.refuse(err)
		return
	}
	if p := c.m.health.probe; e.Probe && p != nil {
		c.join(p, e.Attach)
		c.push(wire.Marshal(&wire.Running{PID: p.pid, StartedAt: c.m.health.began.UnixNano()}))
		return
	}
	p, err := c.m.startExec(&e, fds)
	if err != nil && raw.Wait(c.m.main.pidfd, 0) { // it ended meanwhile: the kernel's word is ENOMEM, or ESRCH
		err = errs.New(errs.Conflict, "the container is not running")
	}
	if err != nil {
		c.refuse(err)
		return
	}
	if e.Probe {
		c.m.health.begin(c.m.now)
		c.m.probes(p)
	}
	p.resize(e.Attach.Rows, e.Attach.Cols)
	c.m.execs = append(c.m.execs, p)
	c.m.writeExecs(p)
	running := wire.Marshal(&wire.Running{PID: p.pid, StartedAt: c.m.now.UnixNano()})
	if e.Detach {
		c.last(running)
	} else {
		c.lossless = true // it holds up nothing but its own process
		c.join(p, e.Attach)
		c.push(running)
	}
	p.watch()
}

// startExec carries out the plan of an exec.
func (m *monitor) startExec(e *wire.Exec, fds []int) (*proc, error) {
	text, unmap, err := mapAll(fds[0])
	if err != nil {
		return nil, err
	}
	defer unmap()
	plan, err := wire.UnmarshalPlan(text)
	if err != nil {
		return nil, err
	}
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	slots[wire.SlotInit] = m.main.pidfd
	for i, slot := range e.Slots {
		if int(slot) < wire.SlotUser0 || int(slot) >= wire.NumSlots {
			return nil, errs.New(errs.Internal, "wire: no such slot")
		}
		slots[slot] = fds[1+i]
	}
	p := &proc{m: m, stdin: -1, master: -1, tty: e.TTY, id: e.ID}
	return p, p.run(plan, slots, e.Attach.Stdin && !e.Detach)
}

// refuse answers with err and ends the connection.
func (c *client) refuse(err error) { c.last(wire.Marshal(failure(err))) }

// push sends packet, or keeps a copy until the client takes it.
func (c *client) push(packet []byte) {
	if c.fd < 0 || c.deaf {
		return
	}
	if len(c.queue) == 0 {
		err := send(c.fd, packet)
		if err == nil {
			return
		}
		if !blocked(err) {
			c.forget()
			return
		}
		c.patience()
	}
	c.queue = append(c.queue, slices.Clone(packet))
	c.update()
}

// last is push of the last packet.
func (c *client) last(packet []byte) {
	c.push(packet)
	c.closing = true
	c.pending = nil
	if len(c.queue) == 0 {
		c.hangUp()
	}
}

// flush sends what is queued.
func (c *client) flush() {
	for len(c.queue) > 0 {
		err := send(c.fd, c.queue[0])
		if blocked(err) {
			return
		}
		if err != nil {
			c.forget()
			break
		}
		c.queue[0] = nil
		c.queue = c.queue[1:]
		c.patience()
	}
	c.queue, c.dropAt = nil, time.Time{}
	if c.closing {
		c.hangUp()
		return
	}
	c.update()
	if c.p != nil {
		c.p.resume()
	}
}

// patience gives c some more time to read.
func (c *client) patience() {
	if !c.lossless {
		c.dropAt = c.m.now.Add(stall)
	}
}

// forget drops what c has not read: it reads no more.
func (c *client) forget() {
	c.deaf = true
	c.queue, c.dropAt = nil, time.Time{}
	c.update()
	if c.p != nil {
		c.p.resume()
	}
}

// feed writes input to the process, and keeps what it does not take now.
func (c *client) feed(data []byte) {
	p := c.p
	if c.pending != nil {
		data = c.pending
	}
	for len(data) > 0 && p.stdin >= 0 {
		n, err := again(func() (int, error) { return syscall.Write(p.stdin, data) })
		if blocked(err) {
			if c.pending == nil {
				data = slices.Clone(data) // it lies in the monitor's buffer
			}
			c.pending = data
			c.m.watch(p.stdin, syscall.EPOLLOUT, input{p})
			c.update()
			return
		}
		if err != nil { // EPIPE, EIO: nobody reads it any more
			p.closeStdin()
			break
		}
		data = data[n:]
	}
	if c.pending != nil {
		c.pending = nil
		if c.fd < 0 {
			c.inputEnded()
			return
		}
		c.update()
	}
}

// inputEnded is the end of c's input: by its word, or because it is gone. A
// container's stdin ends with that of its first client if it was made so
// (StdinOnce), an exec's always; a terminal's never does.
func (c *client) inputEnded() {
	p := c.p
	if p == nil || !c.stdin || p.tty || p.stdin < 0 {
		return
	}
	if !p.container || c.m.job.StdinOnce {
		p.closeStdin()
	}
}

// hangUp ends the connection. Input that still waits is delivered first, which
// keeps c in the list.
func (c *client) hangUp() {
	if c.fd < 0 {
		return
	}
	c.m.shut(&c.fd)
	closeAll(c.held)
	c.held = nil
	c.queue, c.dropAt = nil, time.Time{}
	if c.m.control == c {
		c.m.control = nil
	}
	if c.p == nil {
		return
	}
	c.p.resume()
	if c.pending == nil {
		c.inputEnded()
	}
}

// send sends one packet.
func send(fd int, packet []byte) error {
	_, err := again(func() (int, error) {
		return syscall.SendmsgN(fd, packet, nil, nil, syscall.MSG_NOSIGNAL)
	})
	return err
}

// receive reads one packet into buf, with the descriptors beside it, which are
// the caller's to close. The end of the connection is an error.
func receive(fd int, buf []byte) ([]byte, []int, error) {
	var oob [1032]byte // room for maxFDs: 16 + 4*253
	for {
		n, oobn, flags, _, err := syscall.Recvmsg(fd, buf, oob[:], syscall.MSG_CMSG_CLOEXEC)
		switch {
		case err == syscall.EINTR: //nolint:errorlint // a system call's own errno
			continue
		case err == syscall.ECONNRESET: //nolint:errorlint // likewise
			continue // the peer closed without reading all; what it sent is still there
		case err != nil:
			return nil, nil, err
		}
		fds := rights(oob[:oobn])
		if n == 0 || flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 || len(fds) > maxFDs {
			closeAll(fds)
			return nil, nil, errGone
		}
		return buf[:n], fds, nil
	}
}

// rights returns the descriptors in a control message.
func rights(oob []byte) []int {
	if len(oob) == 0 {
		return nil
	}
	var all []int
	msgs, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		if fds, err := syscall.ParseUnixRights(&msgs[i]); err == nil {
			all = append(all, fds...)
		}
	}
	return all
}

func closeAll(fds []int) {
	for _, fd := range fds {
		_ = syscall.Close(fd) // handed to somebody else, or refused
	}
}
