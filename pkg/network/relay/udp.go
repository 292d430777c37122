package relay

import (
	"syscall"
	"time"
	"unsafe"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// flow is a conversation in datagrams between an address inside and one outside.
type flow struct {
	r        *Relay
	way      route
	near     int // on the container's side, with the outside's address
	far      int // on the host's side; -1: it speaks through service
	service  *Service
	local    pktinfo   // the host's address that the client used; with service
	or       sock.Addr // the container's other address, until one has answered; with service
	said     []byte    // the client's first datagram, as long as or is known
	turned   bool      // it leads to what was or
	used     time.Time
	answered bool
}

// The time after which a flow without datagrams ends.
const (
	flowIdle = 90 * time.Second
	dnsIdle  = 10 * time.Second // a question that has been answered
)

func (f *flow) idle() time.Duration {
	if f.answered && f.service == nil && f.way.dst.Port == 53 {
		return dnsIdle
	}
	return flowIdle
}

// close ends a flow.
func (f *flow) close() {
	f.r.l.Close(&f.near)
	f.r.l.Close(&f.far)
	if f.r.flows[f.way] == f {
		delete(f.r.flows, f.way)
	}
}

const (
	batch      = 16
	datagram   = 64 << 10
	controlLen = 96
)

// udpBuffers is room for a batch of datagrams, with all that the kernel says
// beside them. There is one, made when the first datagram comes.
type udpBuffers struct {
	msgs [batch]mmsg
	iov  [batch]syscall.Iovec
	name [batch]sock.Raw
	ctl  [batch][controlLen]byte
	data []byte
}

type mmsg struct {
	sock.Message
	n uint32
	_ uint32
}

func (r *Relay) buffers() *udpBuffers {
	if r.udp == nil {
		u := &udpBuffers{data: make([]byte, batch*datagram)}
		for i := range u.msgs {
			u.iov[i].Base = &u.data[i*datagram]
			u.msgs[i].Iov, u.msgs[i].IovLen = &u.iov[i], 1
		}
		r.udp = u
	}
	return r.udp
}

// receive fills the batch and returns how many datagrams came.
func (u *udpBuffers) receive(fd int, named bool) (int, syscall.Errno) {
	for i := range u.msgs {
		m := &u.msgs[i]
		u.iov[i].Len = datagram
		m.Name, m.NameLen, m.Flags = nil, 0, 0
		m.Control, m.CtlLen = &u.ctl[i][0], controlLen
		if named {
			m.Name, m.NameLen = &u.name[i], uint32(len(u.name[i]))
		}
	}
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&u.msgs)), batch, syscall.MSG_DONTWAIT, 0, 0)
		if errno != syscall.EINTR {
			return int(n), errno
		}
	}
}

// bytes returns the content of datagram i.
func (u *udpBuffers) bytes(i int) []byte {
	return u.data[i*datagram:][:u.msgs[i].n]
}

// segment returns into how many bytes each the kernel joined datagrams; 0: it
// joined none.
func (u *udpBuffers) segment(i int) int {
	size := 0
	sock.Controls(u.ctl[i][:u.msgs[i].CtlLen], func(level, typ int32, data []byte) {
		if level == sock.SolUDP && typ == sock.UDPGRO && len(data) >= 4 {
			size = int(*(*int32)(unsafe.Pointer(&data[0])))
		}
	})
	return size
}

// outgoing makes datagrams [from, to) ready to be sent by a connected socket.
func (u *udpBuffers) outgoing(i int) {
	size := u.segment(i)
	m := &u.msgs[i]
	u.iov[i].Len = uint64(m.n)
	m.Name, m.NameLen, m.Control, m.CtlLen = nil, 0, nil, 0
	if size > 0 && size < int(m.n) {
		m.Control = &u.ctl[i][0]
		m.CtlLen = uint64(putControl(u.ctl[i][:], sock.SolUDP, sock.UDPSegment, []byte{byte(size), byte(size >> 8)}))
	}
}

// putControl writes a control message and returns its length with padding.
func putControl(b []byte, level, typ int32, data []byte) int {
	*(*uint64)(unsafe.Pointer(&b[0])) = uint64(16 + len(data))
	*(*int32)(unsafe.Pointer(&b[8])) = level
	*(*int32)(unsafe.Pointer(&b[12])) = typ
	n := 16 + copy(b[16:], data)
	for n%8 != 0 {
		b[n] = 0
		n++
	}
	return n
}

const sysSendmmsg = sendmmsgNr

// sendAll sends n prepared datagrams. refused tells that the peer has no such port.
func (u *udpBuffers) sendAll(fd, n int) (refused bool) {
	for at := 0; at < n; {
		sent, _, errno := syscall.RawSyscall6(sysSendmmsg, uintptr(fd), uintptr(unsafe.Pointer(&u.msgs[at])), uintptr(n-at), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.ECONNREFUSED:
			refused = true // an answer to an earlier one, which the call only reports: once more
			if sent, _, errno = syscall.RawSyscall6(sysSendmmsg, uintptr(fd), uintptr(unsafe.Pointer(&u.msgs[at])), uintptr(n-at), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0); errno != 0 {
				at++
			} else {
				at += int(sent)
			}
		case errno == syscall.EIO || errno == syscall.EINVAL:
			// A device or a path that cannot segment: one by one.
			u.sendSingly(fd, at)
			at++
		case errno != 0: // EMSGSIZE, EAGAIN, ENETUNREACH: datagrams get lost
			at++
		default:
			at += int(sent)
		}
	}
	return refused
}

// sendSingly sends the datagrams that the kernel joined in message i.
func (u *udpBuffers) sendSingly(fd, i int) {
	m := &u.msgs[i]
	if m.CtlLen == 0 {
		return
	}
	size := int(u.ctl[i][16]) | int(u.ctl[i][17])<<8
	for b := u.bytes(i); len(b) > 0 && size > 0; {
		n := min(size, len(b))
		_, _ = sock.Write(fd, b[:n]) // datagrams get lost
		b = b[n:]
	}
}

// datagrams is where the first ones of each flow of a source arrive.
type datagrams struct{ s *Source }

// Ready makes flows of datagrams.
func (d datagrams) Ready(uint32) {
	r, u := d.s.r, d.s.r.buffers()
	for range 16 {
		n, errno := u.receive(d.s.UDP, true)
		if errno != 0 {
			return
		}
		for i := range n {
			src, dst := u.name[i].Get(), originalDst(u.ctl[i][:u.msgs[i].CtlLen])
			if dst.Port == 0 || !src.Is(d.s.IP) {
				continue
			}
			f := r.flows[route{src, dst}]
			if f == nil {
				f = r.newFlow(d.s, src, dst)
			}
			if f == nil {
				continue
			}
			f.used = r.l.Now()
			if _, errno := sock.Write(f.far, u.bytes(i)); errno == syscall.ECONNREFUSED {
				f.refused()
				_, _ = sock.Write(f.far, u.bytes(i)) // datagrams get lost
			}
		}
		if n < batch {
			return
		}
	}
}

// originalDst returns where a datagram was sent to; port 0 if that is not told.
func originalDst(ctl []byte) sock.Addr {
	var dst sock.Addr
	sock.Controls(ctl, func(level, typ int32, data []byte) {
		if level == syscall.IPPROTO_IP && typ == sock.IPRecvOrigDst || level == syscall.IPPROTO_IPV6 && typ == sock.IPv6RecvOrigDst {
			var raw sock.Raw
			copy(raw[:], data)
			dst = raw.Get()
		}
	})
	return dst
}

// newFlow makes the flow of a datagram from the container; nil: it is lost.
func (r *Relay) newFlow(s *Source, src, dst sock.Addr) *flow {
	if len(r.flows) >= maxFlows {
		return nil
	}
	to, ok := r.target(s, dst)
	if !ok {
		r.unreachable(&src, &dst, false)
		return nil
	}
	near, err := r.near(sock.KindOf(&dst, true), &dst)
	if err != nil {
		return nil
	}
	far, err := sock.Open(sock.KindOf(&to, true))
	if err != nil {
		_ = syscall.Close(near) // nothing was sent
		return nil
	}
	if err := sock.Connect(far, &to); err != nil {
		r.unreachable(&src, &dst, false)
		_ = syscall.Close(near) // nothing was sent
		_ = syscall.Close(far)
		return nil
	}
	return r.flow(&flow{r: r, way: route{src, dst}, near: near, far: far}, &src)
}

// near returns a socket of the container's side with the outside's address a; nil:
// with the gateway's.
func (r *Relay) near(k sock.Kind, a *sock.Addr) (int, error) {
	fd, err := r.socket(k)
	if err != nil || a == nil {
		return fd, err
	}
	_ = sock.Option(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // any socket takes it
	if err := sock.Bind(fd, a); err != nil {
		_ = syscall.Close(fd) // nothing was sent
		return -1, err
	}
	return fd, nil
}

// flow connects the near side of f to the container and begins to relay.
func (r *Relay) flow(f *flow, container *sock.Addr) *flow {
	f.used = r.l.Now()
	err := sock.Connect(f.near, container)
	if err == nil {
		_ = sock.Option(f.near, sock.SolUDP, sock.UDPGRO, 1) // Linux 5.0; without it there are only more datagrams
		err = r.l.Watch(f.near, loop.In, nearSide{f})
	}
	if err == nil && f.far >= 0 {
		_ = sock.Option(f.far, sock.SolUDP, sock.UDPGRO, 1) // likewise
		err = r.l.Watch(f.far, loop.In, farSide{f})
	}
	if err != nil {
		f.close()
		return nil
	}
	r.flows[f.way] = f
	r.every()
	return f
}

// nearSide is what the container says; farSide what it is told.
type (
	nearSide struct{ f *flow }
	farSide  struct{ f *flow }
)

// Ready hands datagrams on.
func (s nearSide) Ready(uint32) {
	f := s.f
	u := f.r.buffers()
	for range 16 {
		n, errno := u.receive(f.near, false)
		if errno == syscall.ECONNREFUSED && f.turn() {
			continue
		}
		if errno != 0 {
			return // EAGAIN; ECONNREFUSED: the container has no such port, and the client is not told
		}
		f.used = f.r.l.Now()
		if f.service != nil {
			if !f.answered {
				f.settle()
			}
			f.service.answer(f, u, n)
		} else {
			for i := range n {
				u.outgoing(i)
			}
			if u.sendAll(f.far, n) {
				f.refused()
			}
		}
		if n < batch {
			return
		}
	}
}

// Ready hands datagrams on.
func (s farSide) Ready(uint32) {
	f := s.f
	u := f.r.buffers()
	for range 16 {
		n, errno := u.receive(f.far, false)
		if errno == syscall.ECONNREFUSED {
			f.refused()
			continue
		}
		if errno != 0 {
			return
		}
		f.used, f.answered = f.r.l.Now(), true
		for i := range n {
			u.outgoing(i)
		}
		u.sendAll(f.near, n)
		if n < batch {
			return
		}
	}
}

// refused tells the container that nobody listens there.
func (f *flow) refused() { f.r.unreachable(&f.way.src, &f.way.dst, true) }
