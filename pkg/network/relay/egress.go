package relay

import (
	"syscall"
	"time"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// Source is one address of the container on one network: what the container
// sends from there is relayed.
type Source struct {
	IP       []byte
	Gateway  []byte
	Internal bool // nothing but the gateway is reached
	// NoMetadata refuses 169.254.169.254, where clouds tell their machines' secrets.
	NoMetadata bool
	TCP, UDP   int // sockets at IP, port [Port], on the container's side; -1: none

	r  *Relay
	at sock.Addr
}

// Add begins to relay for s.
func (r *Relay) Add(s *Source) error {
	s.r, s.at = r, sock.At(s.IP, 0)
	r.sources = append(r.sources, s)
	if s.TCP >= 0 {
		if err := r.l.Watch(s.TCP, loop.In, acceptor{s}); err != nil {
			return err
		}
	}
	if s.UDP >= 0 {
		return r.l.Watch(s.UDP, loop.In, datagrams{s})
	}
	return nil
}

// Remove stops relaying for s, and closes its sockets.
func (r *Relay) Remove(s *Source) {
	for i := range r.sources {
		if r.sources[i] == s {
			r.sources = append(r.sources[:i], r.sources[i+1:]...)
			break
		}
	}
	r.l.Close(&s.TCP)
	r.l.Close(&s.UDP)
	for k, d := range r.dials {
		if k.src.Is(s.IP) {
			d.drop()
		}
	}
	for k, f := range r.flows {
		if k.src.Is(s.IP) && f.service == nil {
			f.close()
		}
	}
}

func (r *Relay) source(a *sock.Addr) *Source {
	for _, s := range r.sources {
		if a.Is(s.IP) {
			return s
		}
	}
	return nil
}

// dial is a connection of the container's that the host side is to make.
type dial struct {
	r       *Relay
	way     route
	fd      int // on the host's side
	inner   int // on the container's, when it had to be accepted first; -1
	q       *Queue
	id      uint32 // of the packet that waits; with q
	limit   *loop.Timer
	present bool // connected: the container's side is still to be accepted
}

// syn is the container's wish for a connection, which waits for the verdict.
func (r *Relay) syn(q *Queue, id uint32, p *packet) {
	way := route{p.src, p.dst}
	if r.dials[way] != nil || len(r.dials) >= maxDials {
		q.verdict(id, dropIt, 0) // it is repeated
		return
	}
	switch errno := r.dial(way, q, id, -1); errno {
	case 0:
	case syscall.EMFILE:
		q.verdict(id, dropIt, 0) // it is repeated
	default:
		q.verdict(id, acceptIt, markOf(errno))
	}
}

func markOf(errno syscall.Errno) uint32 {
	if errno == syscall.ECONNREFUSED {
		return MarkRefused
	}
	return MarkUnreachable
}

// dial begins to connect the host's side.
func (r *Relay) dial(way route, q *Queue, id uint32, inner int) syscall.Errno {
	s := r.source(&way.src)
	if s == nil {
		return syscall.EHOSTUNREACH
	}
	to, ok := r.target(s, way.dst)
	if !ok {
		return syscall.EHOSTUNREACH
	}
	fd, err := sock.Open(sock.KindOf(&to, false))
	if err != nil {
		return syscall.EMFILE // or ENFILE, ENOBUFS: no room now
	}
	tune(fd)
	d := &dial{r: r, way: way, fd: fd, inner: inner, q: q, id: id}
	err = sock.Connect(fd, &to)
	if err != nil && err != syscall.EINPROGRESS { //nolint:errorlint // a system call's own errno
		_ = syscall.Close(fd) // not connected
		return err.(syscall.Errno)
	}
	r.dials[way] = d
	d.limit = r.l.After(dialTimeout, d.timeout)
	if err == nil {
		d.connected()
		return 0
	}
	if err := r.l.Watch(fd, loop.Out, d); err != nil {
		d.end()
		r.l.Close(&d.fd)
		return syscall.EHOSTUNREACH
	}
	return 0
}

// Ready is the answer of the host's side.
func (d *dial) Ready(uint32) {
	if d.present { // it ended before the container's side was there
		return
	}
	if errno := sock.Fault(d.fd); errno != 0 {
		if errno == syscall.ETIMEDOUT {
			d.timeout()
			return
		}
		d.refuse(errno)
		return
	}
	d.connected()
}

// connected pairs the two sides, or lets the container's come.
func (d *dial) connected() {
	if d.inner >= 0 {
		fd, inner := d.fd, d.inner
		d.end()
		d.r.l.Forget(fd)
		d.r.join(inner, fd)
		return
	}
	d.present = true
	d.r.l.Forget(d.fd)
	d.limit.Reset(20 * time.Second) // for the rest of the container's handshake
	d.q.verdict(d.id, acceptIt, 0)
	d.q = nil
}

// refuse tells the container why there is no connection.
func (d *dial) refuse(errno syscall.Errno) {
	if d.q != nil {
		d.q.verdict(d.id, acceptIt, markOf(errno))
		d.q = nil
	}
	d.drop()
}

// timeout is nobody's answer: the container is not told anything either.
func (d *dial) timeout() { d.drop() }

// drop ends a connection that did not come to be.
func (d *dial) drop() {
	if d.q != nil {
		d.q.verdict(d.id, dropIt, 0)
		d.q = nil
	}
	d.end()
	d.r.l.Close(&d.fd)
	d.r.reset(&d.inner)
}

// end takes d out of the books.
func (d *dial) end() {
	d.limit.Stop()
	if d.r.dials[d.way] == d {
		delete(d.r.dials, d.way)
		d.r.next()
	}
}

// acceptor is where connections of a source arrive.
type acceptor struct{ s *Source }

// Ready accepts connections.
func (a acceptor) Ready(uint32) {
	r := a.s.r
	if r.queue != nil {
		// While the relay was busy, the container may have asked again for what it has by
		// now. It is one connection as long as its dial is known.
		r.queue.read(queueLength)
	}
	for range 64 {
		fd, src, err := sock.Accept(a.s.TCP)
		if err != nil {
			r.crowded(a.s.TCP, a, err)
			return
		}
		tune(fd)
		way := route{src, sock.Name(fd)}
		if d := r.dials[way]; d != nil && d.present {
			out := d.fd
			d.end()
			r.join(fd, out)
			continue
		}
		// Nobody asked first: the kernel has no queues, or this one was full.
		r.connect(way, fd)
	}
}

// connect makes the host's side of a connection that the container has already.
func (r *Relay) connect(way route, fd int) {
	d := r.dials[way]
	switch {
	case d != nil && d.inner < 0: // it asked, and asked again when the queue was full
		d.inner = fd
		d.q.verdict(d.id, dropIt, 0)
		d.q = nil
	case d != nil || len(r.waiting) >= maxWaiting:
		r.reset(&fd)
	case len(r.dials) >= maxDials:
		r.waiting = append(r.waiting, accepted{way, fd})
	default:
		if errno := r.dial(way, nil, 0, fd); errno != 0 {
			r.reset(&fd)
		}
	}
}

// accepted is a connection that has no host's side because too many are on their
// way.
type accepted struct {
	way route
	fd  int
}

// next goes on with those that wait.
func (r *Relay) next() {
	for len(r.waiting) > 0 && len(r.dials) < maxDials {
		w := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.connect(w.way, w.fd)
	}
}

// crowded waits a little before the next connection is accepted if there is no
// room for it: epoll would tell of it again at once.
func (r *Relay) crowded(fd int, h loop.Handler, err error) {
	if err == syscall.EMFILE || err == syscall.ENFILE || err == syscall.ENOBUFS || err == syscall.ENOMEM { //nolint:errorlint // a system call's own errno
		r.l.Forget(fd)
		r.l.After(100*time.Millisecond, func() {
			if err := r.l.Watch(fd, loop.In, h); err != nil {
				r.note(err.Error())
			}
		})
	}
}

// hostAddr is the host as its peers see it, and when we looked.
type hostAddr struct {
	v4, v6 []byte
	at     time.Time
}

// target returns where on the host's side a destination of the container's is;
// not ok: nowhere.
func (r *Relay) target(s *Source, dst sock.Addr) (sock.Addr, bool) {
	if dst.V6 && dst.Mapped() {
		return dst, false
	}
	if dst.Is(s.Gateway) || r.means(&dst) {
		if r.c.NoHost {
			return dst, false
		}
		return r.hostAt(dst)
	}
	if s.Internal {
		return dst, false
	}
	for _, o := range r.sources { // another network's gateway is the host, too
		if dst.Is(o.Gateway) {
			if r.c.NoHost {
				return dst, false
			}
			return r.hostAt(dst)
		}
	}
	if dst.V6 {
		if dst.IP == ([16]byte{}) || dst.Loopback() || dst.IP[0] == 0xff || dst.IP[0] == 0xfe && dst.IP[1]&0xc0 == 0x80 {
			return dst, false
		}
	} else if ip := dst.Bytes(); ip[0] == 0 || ip[0] == 127 || ip[0] >= 224 && ip[0] < 240 || string(ip) == "\xff\xff\xff\xff" {
		return dst, false
	}
	if s.NoMetadata && (dst.Is([]byte{169, 254, 169, 254}) || dst.Is([]byte{0xfd, 0, 0x0e, 0xc2, 14: 2, 15: 0x54})) {
		return dst, false
	}
	if r.c.NoHost && r.own(&dst) {
		return dst, false
	}
	return dst, true
}

func (r *Relay) means(dst *sock.Addr) bool {
	for _, ip := range r.c.HostIPs {
		if dst.Is(ip) {
			return true
		}
	}
	return false
}

// own reports whether an address is the host's, which a socket can be bound to.
func (r *Relay) own(dst *sock.Addr) bool {
	fd, err := sock.Open(sock.KindOf(dst, true))
	if err != nil {
		return true
	}
	a := dst.With(0)
	err = sock.Bind(fd, &a)
	_ = syscall.Close(fd) // nothing was sent
	return err == nil
}

// hostAt returns the host's own address of dst's family, with dst's port.
func (r *Relay) hostAt(dst sock.Addr) (sock.Addr, bool) {
	if r.c.HostLoopback {
		if dst.V6 {
			return sock.Addr{IP: [16]byte{15: 1}, Port: dst.Port, V6: true}, true
		}
		return sock.At([]byte{127, 0, 0, 1}, dst.Port), true
	}
	if now := r.l.Now(); now.Sub(r.host.at) > time.Second {
		r.host = hostAddr{v4: ownAddress(false), v6: ownAddress(true), at: now}
	}
	ip := r.host.v4
	if dst.V6 {
		ip = r.host.v6
	}
	if ip == nil {
		return dst, false
	}
	return sock.At(ip, dst.Port), true
}
