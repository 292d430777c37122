package dns

import (
	"syscall"
	"time"
	"unsafe"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

const (
	// most is how many questions may be on their way elsewhere.
	most = 1024
	// patience is how long a server may take to answer.
	patience = 2 * time.Second
	// idle is how long a connection may say nothing.
	idle = 10 * time.Second
	// mostConns is how many connections there may be.
	mostConns = 64
)

// Server is one container's name server. All of it belongs to one loop.
type Server struct {
	l    *loop.Loop
	note func(string)

	udp, tcp int
	inside   func(f func() error) error // calls f in the container's namespace
	z        zone
	up       upstream
	asked    map[*question]struct{}
	conns    map[*conn]struct{}
	buf      []byte
	turn     int // so that each of several holders of a name is first once
}

// New returns a server that does nothing yet. inside calls a function in the
// container's namespace, where servers of the user's are asked from; note tells a
// log.
func New(l *loop.Loop, inside func(f func() error) error, note func(string)) *Server {
	return &Server{l: l, note: note, udp: -1, tcp: -1, inside: inside}
}

// Start serves the sockets, which are the server's from here on; tcp listens.
func (s *Server) Start(udp, tcp int, config []byte) error {
	s.udp, s.tcp = udp, tcp
	s.asked, s.conns = map[*question]struct{}{}, map[*conn]struct{}{}
	s.buf = make([]byte, 64<<10)
	_ = s.Update(config) // one that cannot be read leaves names unknown
	if err := s.l.Watch(udp, loop.In, datagrams{s}); err != nil {
		return err
	}
	return s.l.Watch(tcp, loop.In, accepts{s})
}

// Update changes what is known.
func (s *Server) Update(config []byte) error {
	c, ok := Unmarshal(config)
	if !ok {
		s.note("dns: the configuration cannot be read")
	}
	s.z = zone{config: c}
	s.up = upstream{path: c.Resolv, inside: len(c.Servers) > 0}
	for _, ip := range c.Servers {
		s.up.servers = append(s.up.servers, sock.At(ip, 53))
	}
	return nil
}

// Stop closes everything.
func (s *Server) Stop() {
	s.l.Close(&s.udp)
	s.l.Close(&s.tcp)
	for q := range s.asked {
		q.end()
	}
	for c := range s.conns {
		c.close()
	}
	s.buf = nil
}

type datagrams struct{ s *Server }

// Ready answers questions.
func (d datagrams) Ready(uint32) {
	s := d.s
	for range 64 {
		n, from, errno := receiveFrom(s.udp, s.buf)
		if errno != 0 {
			return
		}
		s.ask(s.buf[:n], from, nil)
	}
}

// ask answers a question, or sends it on. c is nil for a datagram.
func (s *Server) ask(p []byte, from sock.Addr, c *conn) {
	q, ok := parse(p)
	if !ok {
		if len(p) >= headerLen && p[2]&flagResponse == 0 { // no question that we understand: others may
			s.forward(p, query{id: u16(p), size: 512, end: headerLen}, from, c)
		}
		return
	}
	if out, known := s.local(p, &q); known {
		s.reply(out, &q, from, c)
		return
	}
	s.forward(p, q, from, c)
}

// local answers from what the endpoints' files say.
func (s *Server) local(p []byte, q *query) (out []byte, known bool) {
	if q.class != classIN && q.class != classANY {
		return nil, false
	}
	s.z.refresh(s.l.Now())
	if q.typ == typePTR {
		if ip := reverse(q.name); ip != nil {
			if name := encodeName(s.z.who(ip)); name != nil {
				return q.answer(p, codeOK, [][]byte{record(typePTR, name)}), true
			}
		}
		return nil, false
	}
	found := s.z.lookup(q.name)
	if len(found) == 0 {
		return nil, false
	}
	s.turn++
	var records [][]byte
	for i := range found {
		h := found[(i+s.turn)%len(found)]
		if h.ip4 != nil && (q.typ == typeA || q.typ == typeANY) {
			records = append(records, record(typeA, h.ip4))
		}
		if h.ip6 != nil && (q.typ == typeAAAA || q.typ == typeANY) {
			records = append(records, record(typeAAAA, h.ip6))
		}
	}
	return q.answer(p, codeOK, records), true
}

// reply sends an answer to whom the question came from.
func (s *Server) reply(out []byte, q *query, from sock.Addr, c *conn) {
	if c != nil {
		c.write(out)
		return
	}
	_ = sock.SendTo(s.udp, cut(out, q), &from) // who does not get it asks again
}

// refuse answers that there will be no answer.
func (s *Server) refuse(p []byte, q *query, code byte, from sock.Addr, c *conn) {
	s.reply(q.answer(p, code, nil), q, from, c)
}

// forward asks somebody else.
func (s *Server) forward(p []byte, q query, from sock.Addr, c *conn) {
	single := true
	for i := range len(q.name) {
		single = single && q.name[i] != '.'
	}
	switch {
	case s.z.config.NoForward:
		s.refuse(p, &q, codeFailure, from, c)
		return
	case s.z.config.NoSingle && single && q.name != "":
		s.refuse(p, &q, codeNoName, from, c) // the asker tries it with its domains
		return
	case len(s.asked) >= most:
		s.refuse(p, &q, codeRefused, from, c)
		return
	}
	s.up.refresh(s.l.Now())
	if len(s.up.servers) == 0 {
		s.refuse(p, &q, codeFailure, from, c)
		return
	}
	x := &question{s: s, q: q, from: from, c: c, fd: -1, first: s.up.best(s.l.Now()), packet: append([]byte(nil), p...)}
	s.asked[x] = struct{}{}
	x.next()
}

// question is one that somebody else was asked.
type question struct {
	s      *Server
	q      query
	from   sock.Addr
	c      *conn // who asked, if by a connection
	packet []byte
	fd     int
	id     [2]byte // under which it was asked
	first  int     // the server that was asked first
	tries  int
	limit  *loop.Timer
	last   []byte // the answer to give if none is better

	stream []byte // of a connection to the server: what was read
	sent   bool
}

// next asks the next server, or gives up.
func (x *question) next() {
	s := x.s
	for x.tries < len(s.up.servers) {
		to := s.up.servers[(x.first+x.tries)%len(s.up.servers)]
		x.tries++
		if x.send(&to) {
			return
		}
	}
	x.end()
	out := x.last
	if out == nil {
		out = x.q.answer(x.packet, codeFailure, nil)
	}
	s.reply(out, &x.q, x.from, x.c)
}

// send asks one server, over a socket of its own: its port and the id are what an
// answer must know.
func (x *question) send(to *sock.Addr) bool {
	s := x.s
	x.close()
	x.stream, x.sent = nil, false
	var err error
	open := func() error {
		x.fd, err = sock.Open(sock.KindOf(to, x.c == nil))
		return err
	}
	if s.up.inside {
		err = s.inside(open)
	} else {
		err = open()
	}
	if err != nil {
		return false
	}
	if err := sock.Connect(x.fd, to); err != nil && err != syscall.EINPROGRESS { //nolint:errorlint // a system call's own errno
		x.close()
		return false
	}
	random(x.id[:])
	copy(x.packet, x.id[:])
	events := loop.In
	if x.c == nil {
		if _, errno := sock.Write(x.fd, x.packet); errno != 0 {
			x.close()
			return false
		}
	} else {
		events |= loop.Out
	}
	if err := s.l.Watch(x.fd, events, x); err != nil {
		x.close()
		return false
	}
	if x.limit == nil {
		x.limit = s.l.After(patience, x.next)
	} else {
		x.limit.Reset(patience)
	}
	return true
}

func (x *question) close() { x.s.l.Close(&x.fd) }

// end forgets the question, which gets back the id that it came with.
func (x *question) end() {
	x.close()
	x.limit.Stop()
	delete(x.s.asked, x)
	x.packet[0], x.packet[1] = byte(x.q.id>>8), byte(x.q.id)
}

// Ready reads an answer.
func (x *question) Ready(events uint32) {
	if x.c != nil {
		x.streamReady(events)
		return
	}
	b := x.s.buf
	n, errno := sock.Read(x.fd, b)
	switch {
	case errno == syscall.EAGAIN:
	case errno != 0: // nobody listens there
		x.next()
	default:
		x.answered(b[:n])
	}
}

// answered takes an answer, if it is one.
func (x *question) answered(p []byte) {
	if len(p) < headerLen || p[0] != x.id[0] || p[1] != x.id[1] || p[2]&flagResponse == 0 {
		return // not to this question
	}
	p = append([]byte(nil), p...)
	p[0], p[1] = byte(x.q.id>>8), byte(x.q.id)
	if code := p[3] & 15; code == codeFailure || code == codeRefused {
		x.last = p
		x.next()
		return
	}
	s := x.s
	if n := len(s.up.servers); n > 0 { // they may have changed since
		s.up.good((x.first+x.tries-1)%n, s.l.Now())
	}
	x.end()
	if x.c != nil {
		x.c.write(p)
		return
	}
	_ = sock.SendTo(s.udp, p, &x.from) // a truncated one says so itself; who does not get it asks again
}

// random fills b, at most 256 bytes.
func random(b []byte) {
	_, _, _ = syscall.RawSyscall(sysGetrandom, uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0)
}

// receiveFrom reads one datagram and its sender.
func receiveFrom(fd int, b []byte) (int, sock.Addr, syscall.Errno) {
	var name sock.Raw
	iov := syscall.Iovec{Base: unsafe.SliceData(b)}
	iov.SetLen(len(b))
	m := sock.Message{Name: &name, NameLen: uint32(len(name)), Iov: &iov, IovLen: 1}
	n, errno := sock.Receive(fd, &m, 0)
	return n, name.Get(), errno
}
