package relay

import (
	"syscall"
	"time"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/sock"
)

// unreachable tells the container that a datagram of it could not be delivered:
// nobody listens at the port, or there is no way. It has only the addresses, and
// makes up the rest of the packet that an ICMP error quotes.
func (r *Relay) unreachable(src, dst *sock.Addr, port bool) {
	udp := []byte{byte(src.Port >> 8), byte(src.Port), byte(dst.Port >> 8), byte(dst.Port), 0, 8, 0, 0}
	var quoted []byte
	code := byte(1) // host
	if src.V6 {
		quoted = seal6(append(make([]byte, 40, 48), udp...), protoUDP, src, dst)
		code = 3 // address
		if port {
			code = 4
		}
	} else {
		quoted = seal4(append(make([]byte, 20, 28), udp...), protoUDP, src, dst)
		if port {
			code = 3
		}
	}
	r.fault(src, dst, code, quoted)
}

// fault sends an ICMP error "destination unreachable" to the container, in the
// name of the destination.
func (r *Relay) fault(src, dst *sock.Addr, code byte, quoted []byte) {
	typ := byte(3)
	if src.V6 {
		typ = 1
	}
	quoted = quoted[:min(len(quoted), 528)]
	r.icmp(dst, src, append([]byte{typ, code, 0, 0, 0, 0, 0, 0}, quoted...))
}

// icmp sends an ICMP message from one address to another, which is the container's.
func (r *Relay) icmp(from, to *sock.Addr, message []byte) {
	checkICMP(message, from, to)
	fd, k := &r.raw4, sock.Raw4
	if to.V6 {
		fd, k = &r.raw6, sock.Raw6
	}
	if *fd < 0 {
		made, err := r.c.Make(k, 1)
		if err != nil {
			return // errors get lost, like datagrams
		}
		*fd = made[0]
	}
	var p []byte
	if to.V6 {
		p = seal6(append(make([]byte, 40, 40+len(message)), message...), protoICMP6, from, to)
	} else {
		p = seal4(append(make([]byte, 20, 20+len(message)), message...), protoICMP, from, to)
	}
	a := to.With(0)
	_ = sock.SendTo(*fd, p, &a) // likewise
}

// ping tells the echo requests of one program in the container.
type ping struct {
	way route
	id  uint16
}

// ping4 is a ping socket of the host's, of either family.
type ping4 struct {
	r    *Relay
	key  ping
	fd   int
	used time.Time
}

// echo answers an echo request, or has the host's side ask.
func (r *Relay) echo(p *packet) {
	request := byte(8)
	if p.src.V6 {
		request = 128
	}
	s := r.source(&p.src)
	if s == nil || p.body[0] != request || p.src.V6 != p.dst.V6 {
		return
	}
	if p.dst.Is(s.Gateway) {
		m := append([]byte(nil), p.body...)
		m[0] = 0
		if p.src.V6 {
			m[0] = 129
		}
		r.icmp(&p.dst, &p.src, m)
		return
	}
	to, ok := r.target(s, p.dst)
	if !ok {
		r.pingFault(p, 1)
		return
	}
	key := ping{route{p.src, p.dst}, uint16(p.body[4])<<8 | uint16(p.body[5])}
	w := r.pings[key]
	if w == nil {
		var errno error
		if w, errno = r.pinger(key, &to); errno != nil {
			// The host keeps its users from pinging (net.ipv4.ping_group_range):
			// administratively prohibited. Anything else is no way.
			code := byte(1)
			if errno == syscall.EACCES || errno == syscall.EPERM { //nolint:errorlint // a system call's own errno
				code = 13
			}
			r.pingFault(p, code)
			return
		}
	}
	if w == nil {
		return
	}
	w.used = r.l.Now()
	if _, errno := sock.Write(w.fd, p.body); errno != 0 && errno != syscall.EAGAIN {
		r.pingFault(p, 1)
	}
}

// pingFault answers an echo request with an error; code is that of IPv4.
func (r *Relay) pingFault(p *packet, code byte) {
	header := 20
	if p.src.V6 {
		header = 40
		if code == 13 {
			code = 1
		} else {
			code = 3
		}
	}
	q := append(make([]byte, header, header+len(p.body)), p.body...)
	if p.src.V6 {
		seal6(q, protoICMP6, &p.src, &p.dst)
	} else {
		seal4(q, protoICMP, &p.src, &p.dst)
	}
	r.fault(&p.src, &p.dst, code, q)
}

// pinger opens a ping socket on the host's side; nil: there are too many.
func (r *Relay) pinger(key ping, to *sock.Addr) (*ping4, error) {
	if len(r.pings) >= maxPings {
		return nil, nil
	}
	domain, proto := syscall.AF_INET, syscall.IPPROTO_ICMP
	if to.V6 {
		domain, proto = syscall.AF_INET6, syscall.IPPROTO_ICMPV6
	}
	fd, err := syscall.Socket(domain, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, proto)
	if err != nil {
		return nil, err
	}
	a := to.With(0)
	w := &ping4{r: r, key: key, fd: fd}
	if err := sock.Connect(fd, &a); err != nil {
		_ = syscall.Close(fd) // nothing was sent
		return nil, err
	}
	if err := r.l.Watch(fd, loop.In, w); err != nil {
		_ = syscall.Close(fd) // likewise
		return nil, err
	}
	r.pings[key] = w
	r.every()
	return w, nil
}

// Ready is an answer.
func (w *ping4) Ready(uint32) {
	for range 16 {
		buf := w.r.buffer()
		n, errno := sock.Read(w.fd, buf)
		if errno == syscall.EAGAIN {
			return
		}
		if errno != 0 {
			continue // an error that was waiting
		}
		if n < 8 {
			continue
		}
		m := append([]byte(nil), buf[:n]...)
		m[4], m[5] = byte(w.key.id>>8), byte(w.key.id) // the kernel has put the socket's own there
		w.r.icmp(&w.key.way.dst, &w.key.way.src, m)
	}
}
