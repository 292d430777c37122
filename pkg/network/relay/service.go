package relay

import (
	"syscall"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// Service is a published port.
type Service struct {
	FD  int // bound on the host's side; with TCP listening
	UDP bool
	To  sock.Addr // the container's
	Or  sock.Addr // its other family's, for when nobody listens at To; port 0: there is none

	r *Relay
}

// Subnet is a range of addresses that cannot be a client's: those of containers.
type Subnet struct {
	IP   []byte
	Bits int
}

func (n *Subnet) holds(a *sock.Addr) bool {
	b := a.Bytes()
	if len(b) != len(n.IP) {
		return false
	}
	for i := range b {
		k := min(max(n.Bits-8*i, 0), 8)
		if (b[i]^n.IP[i])&byte(uint(0xff00)>>k) != 0 {
			return false
		}
	}
	return true
}

// Publish begins to serve a port.
func (r *Relay) Publish(s *Service) error {
	s.r = r
	r.served = append(r.served, s)
	if s.UDP {
		for _, o := range [][2]int{{syscall.IPPROTO_IP, syscall.IP_PKTINFO}, {syscall.IPPROTO_IPV6, sock.IPv6RecvPktinfo}, {sock.SolUDP, sock.UDPGRO}} {
			_ = sock.Option(s.FD, o[0], o[1], 1) // the other family's is refused
		}
		return r.l.Watch(s.FD, loop.In, serviceUDP{s})
	}
	return r.l.Watch(s.FD, loop.In, serviceTCP{s})
}

// Withdraw stops serving a port and closes its socket.
func (r *Relay) Withdraw(s *Service) {
	for i := range r.served {
		if r.served[i] == s {
			r.served = append(r.served[:i], r.served[i+1:]...)
			break
		}
	}
	r.l.Close(&s.FD)
	for _, f := range r.flows {
		if f.service == s {
			f.close()
		}
	}
}

// Pause stops accepting while there is no container: who comes waits.
func (r *Relay) Pause() {
	for _, s := range r.served {
		r.l.Forget(s.FD)
	}
}

// Resume accepts again.
func (r *Relay) Resume() error {
	for _, s := range r.served {
		var h loop.Handler = serviceTCP{s}
		if s.UDP {
			h = serviceUDP{s}
		}
		if err := r.l.Watch(s.FD, loop.In, h); err != nil {
			return err
		}
	}
	return nil
}

// client returns the address that a client has on the container's side; nil: the
// gateway's.
func (r *Relay) client(a, to *sock.Addr) *sock.Addr {
	if !r.c.Transparent || a.V6 != to.V6 || a.Loopback() {
		return nil
	}
	for _, s := range r.sources {
		if a.Is(s.IP) {
			return nil
		}
	}
	for i := range r.c.Subnets {
		if r.c.Subnets[i].holds(a) {
			return nil
		}
	}
	return a
}

// SetSubnets says which addresses are containers'.
func (r *Relay) SetSubnets(s []Subnet) { r.c.Subnets = s }

type serviceTCP struct{ s *Service }

// Ready accepts connections.
func (t serviceTCP) Ready(uint32) {
	r := t.s.r
	for range 64 {
		fd, from, err := sock.Accept(t.s.FD)
		if err != nil {
			r.crowded(t.s.FD, t, err)
			return
		}
		tune(fd)
		r.inward(fd, from.Unmapped(), t.s.To, t.s.Or)
	}
}

// call is a client's connection whose container has not answered yet.
type call struct {
	r      *Relay
	client int
	near   int
	from   sock.Addr
	or     sock.Addr
	limit  *loop.Timer
}

// inward connects a client to the container.
func (r *Relay) inward(client int, from, to, or sock.Addr) {
	k := sock.KindOf(&to, false)
	near, err := r.socket(k)
	if err != nil {
		r.reset(&client)
		return
	}
	if a := r.client(&from, &to); a != nil {
		_ = sock.Option(near, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // any socket takes it
		if sock.Bind(near, a) != nil {
			// The same port of the client's at two of ours: the address at least.
			b := a.With(0)
			_ = sock.Bind(near, &b) // or the gateway's
		}
	}
	tune(near)
	err = sock.Connect(near, &to)
	if err == syscall.EADDRINUSE || err == syscall.EADDRNOTAVAIL { //nolint:errorlint // a system call's own errno
		_ = syscall.Close(near) // not connected
		if near, err = r.socket(k); err == nil {
			tune(near)
			err = sock.Connect(near, &to)
		}
	}
	switch {
	case err == nil:
		r.join(near, client)
		return
	case err == syscall.EINPROGRESS: //nolint:errorlint // likewise
		c := &call{r: r, client: client, near: near, from: from, or: or}
		if err = r.l.Watch(near, loop.Out, c); err == nil {
			c.limit = r.l.After(dialTimeout, func() { c.fail() })
			r.calls[c] = struct{}{}
			return
		}
	}
	r.reset(&client)
	if near >= 0 {
		_ = syscall.Close(near) // not connected
	}
}

// Ready is the container's answer.
func (c *call) Ready(uint32) {
	switch errno := sock.Fault(c.near); {
	case errno == 0:
		c.end()
		c.r.l.Forget(c.near)
		c.r.join(c.near, c.client)
	case errno == syscall.ECONNREFUSED && c.or.Port != 0: // who listens at 0.0.0.0 listens at no IPv6 address
		c.end()
		c.r.l.Close(&c.near)
		c.r.inward(c.client, c.from, c.or, sock.Addr{})
	default:
		c.fail()
	}
}

func (c *call) fail() {
	c.end()
	c.r.reset(&c.client)
	c.r.l.Close(&c.near)
}

// end takes c out of the books.
func (c *call) end() {
	c.limit.Stop()
	delete(c.r.calls, c)
}

// pktinfo is the host's address of a datagram, as the kernel tells it and wants
// it back.
type pktinfo struct {
	level, typ int32
	data       [20]byte
	n          int
}

func pktinfoOf(ctl []byte) pktinfo {
	var p pktinfo
	sock.Controls(ctl, func(level, typ int32, data []byte) {
		switch {
		case level == syscall.IPPROTO_IP && typ == syscall.IP_PKTINFO && len(data) >= 12:
			// struct in_pktinfo: the device, the address to answer from, the address
			// that was used. The device is left to the routes.
			p = pktinfo{level: level, typ: typ, n: 12}
			copy(p.data[4:8], data[4:8])
		case level == syscall.IPPROTO_IPV6 && typ == sock.IPv6Pktinfo && len(data) >= 20:
			p = pktinfo{level: level, typ: typ, n: 20}
			copy(p.data[:], data[:20])
			if p.data[0] != 0xfe || p.data[1]&0xc0 != 0x80 { // a link-local one needs its device
				clear(p.data[16:])
			}
		}
	})
	return p
}

type serviceUDP struct{ s *Service }

// Ready hands datagrams to the container.
func (t serviceUDP) Ready(uint32) {
	s, r := t.s, t.s.r
	u := r.buffers()
	for range 16 {
		n, errno := u.receive(s.FD, true)
		if errno == syscall.ECONNREFUSED {
			continue
		}
		if errno != 0 {
			return
		}
		for i := range n {
			from := u.name[i].Get().Unmapped()
			way := route{from, s.To}
			f := r.flows[way]
			if f == nil || f.service != s {
				if f = r.clientFlow(s, from); f == nil {
					continue
				}
				f.local = pktinfoOf(u.ctl[i][:u.msgs[i].CtlLen])
			}
			f.used = r.l.Now()
			f.deliver(u, i)
		}
		if n < batch {
			return
		}
	}
}

// deliver sends datagram i to the container.
func (f *flow) deliver(u *udpBuffers, i int) {
	if b := u.bytes(i); f.or.Port != 0 && f.said == nil && len(b) <= maxSaid {
		f.said = append([]byte{}, b...)
	}
	u.outgoing(i)
	m := &u.msgs[i]
	if errno := sock.Send(f.near, &m.Message); errno == syscall.ECONNREFUSED { // the report of an earlier one
		f.turn()
		_ = sock.Send(f.near, &m.Message) // datagrams get lost
	}
}

// maxSaid is the longest datagram that is kept until the container has answered.
const maxSaid = 2048

// turn leads a flow that the container refuses to its other address, with what was
// said first. It reports whether there is one.
func (f *flow) turn() bool {
	if f.or.Port == 0 {
		return false
	}
	near, err := f.r.socket(sock.KindOf(&f.or, true))
	if err != nil {
		return false
	}
	if sock.Connect(near, &f.or) != nil || f.r.l.Watch(near, loop.In, nearSide{f}) != nil {
		_ = syscall.Close(near) // nothing was sent
		return false
	}
	f.r.l.Close(&f.near)
	f.near = near
	if f.said != nil {
		_, _ = sock.Write(near, f.said) // datagrams get lost
	}
	f.or, f.said, f.turned = sock.Addr{}, nil, true
	return true
}

// settle is the container's first answer. Where it came from its other address, who
// comes from here on is led there at once: a kernel refuses only once a second.
func (f *flow) settle() {
	f.answered, f.or, f.said = true, sock.Addr{}, nil
	r, s := f.r, f.service
	if !f.turned || f.way.dst != s.To {
		return
	}
	s.To, s.Or = s.Or, s.To
	delete(r.flows, f.way)
	f.way.dst = s.To
	if old := r.flows[f.way]; old != nil {
		old.close()
	}
	r.flows[f.way] = f
}

func (r *Relay) clientFlow(s *Service, from sock.Addr) *flow {
	if len(r.flows) >= maxFlows {
		return nil
	}
	k := sock.KindOf(&s.To, true)
	a := r.client(&from, &s.To)
	near, err := r.near(k, a)
	if err != nil && a != nil {
		near, err = r.near(k, nil)
	}
	if err != nil {
		return nil
	}
	return r.flow(&flow{r: r, way: route{from, s.To}, near: near, far: -1, service: s, or: s.Or, used: r.l.Now()}, &s.To)
}

// answer sends n datagrams of the container's to the client, from the address
// that the client knows.
func (s *Service) answer(f *flow, u *udpBuffers, n int) {
	var name sock.Raw
	to := f.way.src
	if sockIsV6(s.FD) && !to.V6 { // a socket for both families wants the mapped form
		to.V6 = true
	}
	size := to.Put(&name)
	for i := range n {
		u.outgoing(i)
		m := &u.msgs[i]
		m.Name, m.NameLen = &name, size
		if f.local.n > 0 && int(m.CtlLen)+16+24 <= controlLen {
			at := int(m.CtlLen)
			m.Control = &u.ctl[i][0]
			m.CtlLen += uint64(putControl(u.ctl[i][at:], f.local.level, f.local.typ, f.local.data[:f.local.n]))
		}
	}
	u.sendAll(s.FD, n)
}

func sockIsV6(fd int) bool { a := sock.Name(fd); return a.V6 }
