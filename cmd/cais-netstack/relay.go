package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"cais.dev/cais/pkg/run/wire"
)

// relay joins the stack's connections with the host's.
type relay struct {
	net   *wire.Net
	stack *stack.Stack
}

const (
	dialTimeout = 60 * time.Second
	flowIdle    = 90 * time.Second
)

func addr(a tcpip.Address) netip.Addr {
	ip, _ := netip.AddrFromSlice(a.AsSlice()) // 4 or 16 bytes
	return ip
}

// target returns where on the host's side a destination of the container's is:
// package relay's rules.
func (r *relay) target(nic tcpip.NICID, dst netip.Addr, port uint16) (string, bool) {
	if dst.Is4In6() {
		return "", false
	}
	host := false
	for i := range r.net.Interfaces {
		w := &r.net.Interfaces[i]
		for _, gw := range [][]byte{w.Gateway4, w.Gateway6} {
			host = host || gw != nil && string(gw) == string(dst.AsSlice())
		}
	}
	for _, ip := range r.net.HostIPs {
		host = host || string(ip) == string(dst.AsSlice())
	}
	switch {
	case host && r.net.NoHost:
		return "", false
	case host && r.net.HostLoopback:
		dst = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case host:
		var ok bool
		if dst, ok = ownAddress(dst.Is6()); !ok {
			return "", false
		}
	case r.net.NoHost && own(dst):
		return "", false
	case r.net.Interfaces[nic-1].NoMetadata && (dst == netip.AddrFrom4([4]byte{169, 254, 169, 254}) || dst == netip.AddrFrom16([16]byte{0xfd, 0, 0x0e, 0xc2, 14: 2, 15: 0x54})),
		r.net.Interfaces[nic-1].Internal,
		dst.IsLoopback(), dst.IsUnspecified(), dst.IsMulticast(), dst.IsLinkLocalUnicast() && dst.Is6(),
		dst == netip.AddrFrom4([4]byte{255, 255, 255, 255}), dst.Is4() && dst.As4()[0] == 0:
		return "", false
	}
	return netip.AddrPortFrom(dst, port).String(), true
}

// own reports whether an address is the host's, which a socket can be bound to.
func own(dst netip.Addr) bool {
	c, err := net.ListenPacket("udp", netip.AddrPortFrom(dst, 0).String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// ownAddress is the host as its peers see it.
func ownAddress(v6 bool) (netip.Addr, bool) {
	far := "192.0.2.1:9"
	if v6 {
		far = "[2001:db8::1]:9"
	}
	c, err := net.Dial("udp", far)
	if err != nil {
		return netip.Addr{}, false
	}
	defer c.Close()
	a, err := netip.ParseAddrPort(c.LocalAddr().String())
	return a.Addr().Unmap(), err == nil && !a.Addr().IsLoopback()
}

// tcp answers a wish for a connection once the host side has answered.
func (r *relay) tcp(req *tcp.ForwarderRequest) {
	id := req.ID()
	to, ok := r.target(r.nic(id.RemoteAddress), addr(id.LocalAddress), id.LocalPort)
	if !ok {
		req.Complete(true)
		return
	}
	out, err := net.DialTimeout("tcp", to, dialTimeout)
	if err != nil {
		req.Complete(!errors.Is(err, os.ErrDeadlineExceeded))
		return
	}
	var wq waiter.Queue
	ep, failed := req.CreateEndpoint(&wq)
	if failed != nil {
		req.Complete(true)
		out.Close()
		return
	}
	req.Complete(false)
	ep.SocketOptions().SetKeepAlive(true)
	join(gonet.NewTCPConn(&wq, ep), out.(*net.TCPConn))
}

// half is what both kinds of connections can do.
type half interface {
	net.Conn
	CloseWrite() error
}

// join hands bytes on both ways until both have ended.
func join(a, b half) {
	var wg sync.WaitGroup
	for _, way := range [][2]half{{a, b}, {b, a}} {
		wg.Go(func() {
			if _, err := io.CopyBuffer(struct{ io.Writer }{way[1]}, struct{ io.Reader }{way[0]}, make([]byte, 64<<10)); err != nil {
				a.Close()
				b.Close()
				return
			}
			_ = way[1].CloseWrite() // one that is gone has no use for it
		})
	}
	wg.Wait()
	a.Close()
	b.Close()
}

// udp makes a flow of a datagram.
func (r *relay) udp(req *udp.ForwarderRequest) {
	id := req.ID()
	to, ok := r.target(r.nic(id.RemoteAddress), addr(id.LocalAddress), id.LocalPort)
	if !ok {
		return
	}
	var wq waiter.Queue
	ep, failed := req.CreateEndpoint(&wq)
	if failed != nil {
		return
	}
	in := gonet.NewUDPConn(&wq, ep)
	out, err := net.Dial("udp", to)
	if err != nil {
		in.Close()
		return
	}
	go datagrams(in, out)
	go datagrams(out, in)
}

// datagrams hands datagrams on until none has come for a while.
func datagrams(from, to net.Conn) {
	defer from.Close()
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		_ = from.SetReadDeadline(time.Now().Add(flowIdle)) // it takes one
		n, err := from.Read(buf)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		_, _ = to.Write(buf[:n]) // datagrams get lost
	}
}

// full is an address as the stack has it.
func (r *relay) full(ip netip.Addr, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{Addr: tcpip.AddrFromSlice(ip.AsSlice()), Port: port}
}

// inside returns an address of the container with a port, and the client's as the
// container may see it.
func (r *relay) inside(ip []byte, port int, client netip.AddrPort) (local *tcpip.FullAddress, remote tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) {
	to, _ := netip.AddrFromSlice(ip)
	proto = header.IPv4ProtocolNumber
	if to.Is6() {
		proto = header.IPv6ProtocolNumber
	}
	from := client.Addr().Unmap()
	if from.Is4() == to.Is4() && !from.IsLoopback() {
		a := r.full(from, client.Port())
		local = &a
	}
	return local, r.full(to, uint16(port)), proto
}

// publish serves a port whose socket is fd.
func (r *relay) publish(p *wire.Port, fd int) error {
	f := os.NewFile(uintptr(fd), "port")
	defer f.Close()
	if p.Proto == "udp" {
		c, err := net.FilePacketConn(f)
		if err == nil {
			s := &packets{r: r, conn: c, port: p.Port, to: p.To, or: p.Or, flows: map[string]*flow{}}
			go s.serve()
		}
		return err
	}
	if p.Proto != "tcp" {
		return nil
	}
	l, err := net.FileListener(f)
	if err == nil {
		go r.serve(p, l)
	}
	return err
}

func (r *relay) serve(p *wire.Port, l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			client, _ := netip.ParseAddrPort(c.RemoteAddr().String()) // of a TCP connection
			in, err := r.dial(r.inside(p.To, p.Port, client))
			if err != nil && p.Or != nil {
				in, err = r.dial(r.inside(p.Or, p.Port, client))
			}
			if err != nil {
				_ = c.(*net.TCPConn).SetLinger(0) // the close follows
				c.Close()
				return
			}
			join(in, c.(*net.TCPConn))
		}()
	}
}

func (r *relay) dial(local *tcpip.FullAddress, remote tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) (*gonet.TCPConn, error) {
	if local != nil {
		ctx, cancel := timeout()
		defer cancel()
		local.NIC = r.nic(remote.Addr)
		if c, err := gonet.DialTCPWithBind(ctx, r.stack, *local, remote, proto); err == nil {
			return c, nil
		}
	}
	ctx, cancel := timeout()
	defer cancel()
	return gonet.DialContextTCP(ctx, r.stack, remote, proto)
}

// nic is the interface that an address of the container is on.
func (r *relay) nic(a tcpip.Address) tcpip.NICID {
	for i := range r.net.Interfaces {
		w := &r.net.Interfaces[i]
		if string(w.IP4) == string(a.AsSlice()) || string(w.IP6) == string(a.AsSlice()) {
			return tcpip.NICID(i + 1)
		}
	}
	return 1
}
