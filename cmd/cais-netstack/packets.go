package main

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// packets serves a port of datagrams.
type packets struct {
	r    *relay
	conn net.PacketConn
	port int

	mu     sync.Mutex
	to, or []byte // the container's addresses; or, if any, is for when nobody listens at to
	flows  map[string]*flow
}

// maxFlows is how many clients a port has.
const maxFlows = 4096

// flow is one client's.
type flow struct {
	from    net.Addr
	in      net.Conn
	or      []byte      // the address that is left to try
	said    []byte      // the first datagram, until it is known who listens; nil: it is
	refused atomic.Bool // nobody does at that address
}

func (p *packets) serve() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := p.conn.ReadFrom(buf)
		if errors.Is(err, syscall.ECONNREFUSED) {
			continue
		}
		if err != nil {
			return
		}
		if in := p.flow(from, buf[:n]); in != nil {
			_, _ = in.Write(buf[:n]) // datagrams get lost
		}
	}
}

// flow returns the connection for a client's datagrams; nil if there is none.
func (p *packets) flow(from net.Addr, said []byte) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.flows[from.String()]
	if f != nil {
		return f.in
	}
	f = &flow{from: from, or: p.or}
	if len(p.flows) >= maxFlows || !p.dial(f, p.to) {
		return nil
	}
	if f.or != nil {
		f.said = bytes.Clone(said)
	}
	p.flows[from.String()] = f
	go p.answers(f)
	return f.in
}

// dial connects a client with an address of the container's.
func (p *packets) dial(f *flow, ip []byte) bool {
	client, _ := netip.ParseAddrPort(f.from.String()) // of a UDP socket
	local, remote, proto := p.r.inside(ip, p.port, client)
	if local != nil {
		local.NIC = p.r.nic(remote.Addr)
		if p.connect(f, *local, remote, proto) {
			return true
		}
	}
	return p.connect(f, tcpip.FullAddress{}, remote, proto)
}

// connect is gonet.DialUDP, but that a refusal ends what is being read, too.
func (p *packets) connect(f *flow, local, remote tcpip.FullAddress, proto tcpip.NetworkProtocolNumber) bool {
	var wq waiter.Queue
	ep, err := p.r.stack.NewEndpoint(udp.ProtocolNumber, proto, &wq)
	if err != nil {
		return false
	}
	if err = ep.Bind(local); err == nil {
		err = ep.Connect(remote)
	}
	if err != nil {
		ep.Close()
		return false
	}
	c := gonet.NewUDPConn(&wq, ep)
	refusal := waiter.NewFunctionEntry(waiter.EventErr, func(waiter.EventMask) {
		f.refused.Store(true)
		_ = c.SetReadDeadline(time.Unix(1, 0)) // it takes one
	})
	wq.EventRegister(&refusal)
	f.in = c
	return true
}

// answers hands on what the container says, until that has been nothing for a while.
func (p *packets) answers(f *flow) {
	defer p.end(f)
	buf := make([]byte, 64<<10)
	turned := false
	for {
		_ = f.in.SetReadDeadline(time.Now().Add(flowIdle)) // it takes one
		n, err := f.in.Read(buf)
		if err != nil {
			if turned || !f.refused.Load() || !p.turn(f) {
				return
			}
			turned = true
			continue
		}
		if f.said != nil {
			f.said = nil
			if turned {
				p.settle(f.or)
			}
		}
		_, _ = p.conn.WriteTo(buf[:n], f.from) // datagrams get lost
	}
}

// turn leads a client that was refused to the container's other address, with what he
// said first. It reports whether there is one.
func (p *packets) turn(f *flow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f.said == nil {
		return false
	}
	was := f.in
	if !p.dial(f, f.or) {
		return false
	}
	was.Close()
	_, _ = f.in.Write(f.said) // datagrams get lost
	return true
}

// settle has those who come from here on led to an address that has answered at once: a
// kernel refuses only once a second.
func (p *packets) settle(ip []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if bytes.Equal(ip, p.or) {
		p.to, p.or = p.or, p.to
	}
}

func (p *packets) end(f *flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f.in.Close()
	delete(p.flows, f.from.String())
}
