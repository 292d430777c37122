package dns

import (
	"syscall"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

type accepts struct{ s *Server }

// Ready takes connections.
func (a accepts) Ready(uint32) {
	s := a.s
	for range 16 {
		fd, from, err := sock.Accept(s.tcp)
		if err != nil {
			return
		}
		c := &conn{s: s, fd: fd, from: from}
		if len(s.conns) >= mostConns || s.l.Watch(fd, loop.In, c) != nil {
			s.l.Close(&c.fd)
			continue
		}
		c.limit = s.l.After(idle, c.close)
		s.conns[c] = struct{}{}
	}
}

// conn is a connection of somebody who asks: one question at a time.
type conn struct {
	s       *Server
	fd      int
	from    sock.Addr
	in      []byte // what was read and is no whole question yet
	out     []byte // what could not be written yet
	busy    bool   // a question is on its way elsewhere
	serving bool   // serve is at work, and goes on by itself
	limit   *loop.Timer
}

func (c *conn) close() {
	c.s.l.Close(&c.fd)
	c.limit.Stop()
	delete(c.s.conns, c)
}

// Ready reads questions and writes what waits.
func (c *conn) Ready(events uint32) {
	if c.fd < 0 {
		return
	}
	if events&loop.Out != 0 && !c.flush() {
		return
	}
	if events&^loop.Out == 0 {
		return
	}
	var b [4 << 10]byte
	n, errno := sock.Read(c.fd, b[:])
	switch {
	case errno == syscall.EAGAIN:
		return
	case errno != 0 || n == 0 || len(c.in)+n > 64<<10+2:
		c.close()
		return
	}
	c.in = append(c.in, b[:n]...)
	c.limit.Reset(idle)
	c.serve()
}

// serve answers the questions that are there.
func (c *conn) serve() {
	if c.serving {
		return
	}
	c.serving = true
	defer func() { c.serving = false }()
	for c.fd >= 0 && !c.busy && len(c.out) == 0 && len(c.in) >= 2 {
		size := int(u16(c.in))
		if len(c.in) < 2+size {
			return
		}
		p := append([]byte(nil), c.in[2:2+size]...)
		c.in = append(c.in[:0], c.in[2+size:]...)
		if size < headerLen || p[2]&flagResponse != 0 {
			c.close()
			return
		}
		c.busy = true
		c.s.ask(p, c.from, c)
	}
}

// write sends an answer.
func (c *conn) write(p []byte) {
	c.busy = false
	if c.fd < 0 || len(p) > 0xffff {
		return
	}
	c.out = append(append(c.out, byte(len(p)>>8), byte(len(p))), p...)
	c.limit.Reset(idle)
	if c.flush() {
		c.serve()
	}
}

// flush writes what waits; false if the connection is gone.
func (c *conn) flush() bool {
	for len(c.out) > 0 {
		n, errno := sock.Write(c.fd, c.out)
		if errno == syscall.EAGAIN {
			break
		}
		if errno != 0 {
			c.close()
			return false
		}
		c.out = c.out[n:]
	}
	events := loop.In
	if len(c.out) > 0 {
		events = loop.Out
	}
	if c.s.l.Watch(c.fd, events, c) != nil {
		c.close()
		return false
	}
	return true
}

// streamReady is the server's connection of a question that came by one.
func (x *question) streamReady(events uint32) {
	if !x.sent && events&loop.Out != 0 {
		b := append([]byte{byte(len(x.packet) >> 8), byte(len(x.packet))}, x.packet...)
		if n, errno := sock.Write(x.fd, b); errno != 0 || n < len(b) { // a new connection takes more than that
			x.next()
			return
		}
		x.sent = true
		if x.s.l.Watch(x.fd, loop.In, x) != nil {
			x.next()
		}
		return
	}
	b := x.s.buf
	n, errno := sock.Read(x.fd, b)
	switch {
	case errno == syscall.EAGAIN:
		return
	case errno != 0 || n == 0:
		x.next()
		return
	}
	x.stream = append(x.stream, b[:n]...)
	if len(x.stream) >= 2 && len(x.stream) >= 2+int(u16(x.stream)) {
		x.answered(x.stream[2 : 2+int(u16(x.stream))])
	}
}
