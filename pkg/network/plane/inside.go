package plane

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nft"
	"cais.dev/cais/pkg/network/sock"
	"cais.dev/cais/pkg/run/wire"
)

// addGate adds the rules of one address to our own table in G, on its thread.
func (p *Plane) addGate(f, bridge int, ip []byte) error {
	family := byte(nft.IP)
	if f == 1 {
		family = nft.IP6
	}
	var batch []*netlink.Message
	if p.gate[f] == "" {
		at := sock.At(ip, 0)
		name := "cais-" + hostOf(at.String())
		batch = append(batch, nft.Table(family, name, nft.Owner, true),
			nft.Base(family, name, "gate", "filter", nft.Prerouting, -160, nft.Accept))
		batch = append(batch, p.gw.Gate(name, family, bridge, ip, p.queue.Num)...)
		err := p.gw.Filter.Batch(batch...)
		if err == nil {
			p.gate[f] = name
		}
		return err
	}
	return p.gw.Filter.Batch(p.gw.Gate(p.gate[f], family, bridge, ip, p.queue.Num)...)
}

// hostOf cuts the port off, and what nft does not take in a name.
func hostOf(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		switch s[i] {
		case '[':
		case ']':
			return string(b)
		case ':':
			if len(s) == 0 || s[0] != '[' {
				return string(b)
			}
			b = append(b, '-')
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

// configure gives the interfaces in list their addresses and all their routes, in
// the container's namespace. first says that the namespace is new.
func (p *Plane) configure(list []*iface, first bool) error {
	var udp, tcp = -1, -1
	err := netns.Visit(p.ns, func() error {
		c, err := netlink.Dial(netlink.FamilyRoute)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := p.sysctls(); err != nil {
			return err
		}
		if first {
			if err := c.Do(netlink.SetUp(1)); err != nil { // the loopback
				return err
			}
		}
		for _, i := range list {
			if err := addresses(c, &i.w); err != nil {
				return err
			}
		}
		if err := p.routes(c, first); err != nil {
			return err
		}
		if first && p.net.Names.On && p.names != nil {
			udp, tcp, err = nameSockets()
		}
		return err
	})
	if err != nil {
		return err
	}
	if udp >= 0 {
		p.naming = true
		return p.names.Start(udp, tcp, p.net.Names.Config)
	}
	if p.naming {
		return p.names.Update(p.net.Names.Config)
	}
	return nil
}

func (p *Plane) stopNames() {
	if p.naming {
		p.naming = false
		p.names.Stop()
	}
}

// sysctls writes the net's settings.
func (p *Plane) sysctls() error {
	for _, s := range p.net.Sysctls {
		err := sysctl(s, "")
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EROFS) {
			return err // the kernel knows it, and it could be set
		}
	}
	return nil
}

// addresses sets up one device in the container.
func addresses(c *netlink.Conn, w *wire.Interface) error {
	index, err := netlink.Index(w.Name)
	if err != nil {
		return err
	}
	// Who had the address before is forgotten by its neighbours.
	_ = netns.Sysctl("net/ipv4/conf/"+w.Name+"/arp_notify", "1")   // a matter of seconds without it
	_ = netns.Sysctl("net/ipv6/conf/"+w.Name+"/ndisc_notify", "1") // likewise
	if w.Bridge != "" {
		_ = netns.Sysctl("net/ipv6/conf/"+w.Name+"/accept_ra", "0") // no neighbour is a router; without IPv6 none is heard
	}
	for _, s := range w.Sysctls {
		if err := sysctl(s, w.Name); err != nil {
			return err
		}
	}
	var m []*netlink.Message
	if w.IP4 != nil {
		m = append(m, netlink.AddAddress(index, w.IP4, w.Bits4))
	}
	if w.IP6 != nil {
		m = append(m, netlink.AddAddress(index, w.IP6, w.Bits6))
	}
	for _, ip := range w.LinkLocal {
		bits := 16
		if len(ip) == 16 {
			bits = 64
		}
		m = append(m, netlink.AddAddress(index, ip, bits))
	}
	m = append(m, netlink.SetUp(index))
	for _, r := range w.Routes {
		if len(r.Dst) == 4 && w.IP4 != nil || len(r.Dst) == 16 && w.IP6 != nil {
			m = append(m, netlink.AddRoute(netlink.Route{Dst: r.Dst, Bits: r.Bits, Gateway: r.Gateway, Index: index, Metric: r.Metric}))
		}
	}
	return c.Do(m...)
}

// routes makes the default routes those of the net.
func (p *Plane) routes(c *netlink.Conn, first bool) error {
	if !first {
		for _, f := range []byte{syscall.AF_INET, syscall.AF_INET6} {
			for range 8 { // whatever there is
				if c.Do(netlink.DelRoute(netlink.Route{Family: f})) != nil {
					break // ESRCH: there is none
				}
			}
		}
	}
	for _, i := range p.ifs {
		w := &i.w
		index := 0
		for f, gw := range [][]byte{w.Gateway4, w.Gateway6} {
			if gw == nil || f == 0 && !w.Default4 || f == 1 && !(w.Default6 && p.out6()) {
				continue
			}
			if index == 0 {
				var err error
				if index, err = netlink.Index(w.Name); err != nil {
					return err
				}
			}
			if err := c.Do(netlink.AddRoute(netlink.Route{Gateway: gw, Index: index, Replace: true})); err != nil {
				return err
			}
		}
	}
	return nil
}

// out6 reports whether packets of IPv6 that leave a network come to something.
func (p *Plane) out6() bool { return p.net.Engine != Relay || p.gw.Has.IP6 }

// sysctl writes key=value, with dots or slashes, and IFNAME for the device.
func sysctl(s, device string) error {
	b := []byte(s)
	value := ""
	for i := range b {
		if b[i] == '=' {
			value = string(b[i+1:])
			b = b[:i]
			break
		}
		if b[i] == '.' {
			b[i] = '/'
		}
	}
	key := string(b)
	const mark = "IFNAME"
	for i := 0; device != "" && i+len(mark) <= len(key); i++ {
		if key[i:i+len(mark)] == mark {
			key = key[:i] + device + key[i+len(mark):]
			break
		}
	}
	return netns.Sysctl(key, value)
}

// remove takes an interface away from a container that runs.
func (p *Plane) remove(i *iface) error {
	for _, s := range i.sources {
		p.r.Remove(s)
	}
	err := netns.Visit(p.ns, func() error {
		c, err := netlink.Dial(netlink.FamilyRoute)
		if err != nil {
			return err
		}
		defer c.Close()
		index, err := netlink.Index(i.w.Name)
		if err != nil {
			return nil // the container has removed it
		}
		return c.Do(netlink.Delete(index))
	})
	p.l.Close(&i.lock)
	return err
}

// nameSockets makes the name server's sockets in the container, on a thread of
// its namespace, and the rules that bring port 53 to them: without connection
// tracking, and leaving the port itself to the container's programs.
func nameSockets() (udp, tcp int, err error) {
	own := sock.At([]byte{127, 0, 0, 11}, 0)
	if udp, err = sock.Open(sock.UDP4); err == nil {
		if tcp, err = sock.Open(sock.TCP4); err != nil {
			_ = syscall.Close(udp) // unused
		}
	}
	if err != nil {
		return -1, -1, os.NewSyscallError("socket", err)
	}
	fail := func(what string, err error) (int, int, error) {
		_ = syscall.Close(udp) // unused
		_ = syscall.Close(tcp)
		return -1, -1, os.NewSyscallError(what, err)
	}
	bind := func(a sock.Addr) error {
		if err := sock.Bind(udp, &a); err != nil {
			return err
		}
		return sock.Bind(tcp, &a)
	}
	if err := bind(own); err != nil {
		return fail("bind 127.0.0.11", err)
	}
	if err := rewrite(sock.Name(udp).Port, sock.Name(tcp).Port); err != nil {
		// Without nftables the port itself.
		_ = syscall.Close(udp) // unused
		_ = syscall.Close(tcp)
		udp, _ = sock.Open(sock.UDP4) // it worked a moment ago; bind tells
		tcp, _ = sock.Open(sock.TCP4)
		_ = sock.Option(tcp, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // any socket takes it
		if err := bind(own.With(53)); err != nil {
			return fail("bind 127.0.0.11:53", err)
		}
	}
	if err := syscall.Listen(tcp, 128); err != nil {
		return fail("listen", err)
	}
	return udp, tcp, nil
}

func rewrite(udp, tcp uint16) error {
	c, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		return err
	}
	defer c.Close()
	const t = "cais_names"
	rule := func(proto byte, at, to uint32, is, becomes uint16, address, csum uint32) *netlink.Message {
		return nft.Rule(nft.IP, t, "out",
			nft.Payload(nft.Network, address, 4, 1), nft.Eq(1, 127, 0, 0, 11),
			nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, proto),
			nft.Payload(nft.Transport, at, 2, 1), nft.Eq(1, byte(is>>8), byte(is)),
			nft.Set(1, byte(becomes>>8), byte(becomes)), nft.SetPort(to, csum, 1))
	}
	const saddr, daddr, sport, dport, udpSum, tcpSum = 12, 16, 0, 2, 6, 16
	return c.Batch(
		nft.Table(nft.IP, t, 0, true),
		nft.Base(nft.IP, t, "out", "filter", nft.Output, -300, nft.Accept),
		rule(17, dport, dport, 53, udp, daddr, udpSum), rule(17, sport, sport, udp, 53, saddr, udpSum),
		rule(6, dport, dport, 53, tcp, daddr, tcpSum), rule(6, sport, sport, tcp, 53, saddr, tcpSum),
	)
}
