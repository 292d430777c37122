package plane

import (
	"errors"
	"os"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/relay"
	"cais.dev/cais/pkg/network/sock"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys/raw"
)

// short is the part of an endpoint's id that is in a device's name.
func short(endpoint string) string { return endpoint[:min(len(endpoint), 9)] }

// inside makes an interface's end in the gateway namespace, on its thread.
func (p *Plane) inside(i *iface, name string) error {
	w, g := &i.w, p.gw
	if p.net.Engine == Netstack {
		plain := *w
		plain.NoBridge = true // the gateway's address is the program's
		w = &plain
	}
	index, made, err := bridgeOn(g.Route, w)
	if err != nil {
		return err
	}
	i.bridge = index
	large := largeIPv4
	if p.net.Engine == Netstack {
		large = 0
	}
	if err := addVeth(g.Route, w, name, index, p.ns, large); err != nil {
		return err
	}
	if p.net.Engine == Netstack {
		i.packets, err = packets(name, w)
		return err
	}
	switch {
	case p.net.Forwards:
		_ = g.Route.Do(netlink.SetMaxIPv4(index, smallIPv4)) // a matter of speed
	case made:
		_ = g.Route.Do(netlink.SetMaxIPv4(index, largeIPv4)) // likewise
	}
	if len(i.sources) > 0 {
		return nil // from an earlier start
	}
	for f, ip := range [][]byte{w.IP4, w.IP6} {
		if ip == nil || f == 1 && !g.Has.IP6 {
			continue
		}
		gateway := w.Gateway4
		if f == 1 {
			gateway = w.Gateway6
		}
		s := &relay.Source{IP: ip, Gateway: gateway, Internal: w.Internal, NoMetadata: w.NoMetadata, TCP: -1, UDP: -1}
		if err := patiently(func() error { return open(s) }); err != nil {
			return err
		}
		if err := patiently(func() error { return p.guard(f, index, ip) }); err != nil {
			return err
		}
		i.sources = append(i.sources, s)
		if err := p.r.Add(s); err != nil {
			return err
		}
	}
	p.subnets()
	return nil
}

// patiently tries again for a second what a monitor that had the address before
// may still hold: one that is killed lets go of its lock of the address and of all
// else one after the other.
func patiently(f func() error) error {
	for turn := 0; ; turn++ {
		err := f()
		if turn == 100 || !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EEXIST) {
			return err
		}
		raw.Wait(-1, 10)
	}
}

// open makes the sockets of a source, on the thread of the gateway namespace.
func open(s *relay.Source) error {
	at := sock.At(s.IP, relay.Port)
	for _, udp := range []bool{false, true} {
		k := sock.KindOf(&at, udp)
		fd, err := sock.Open(k)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		if old := &s.TCP; *old >= 0 && !udp { // of a try before
			_ = syscall.Close(*old) // nothing came
			*old = -1
		}
		if old := &s.UDP; *old >= 0 && udp {
			_ = syscall.Close(*old) // likewise
			*old = -1
		}
		if udp {
			s.UDP = fd
		} else {
			s.TCP = fd
		}
		if err := sock.Transparent(fd, at.V6); err != nil {
			return os.NewSyscallError("setsockopt(IP_TRANSPARENT)", err)
		}
		_ = sock.Option(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1) // any socket takes it
		if err := sock.Bind(fd, &at); err != nil {
			return os.NewSyscallError("bind the relay to "+at.String(), err)
		}
		if !udp {
			if err := syscall.Listen(fd, 4096); err != nil {
				return os.NewSyscallError("listen", err)
			}
			continue
		}
		level, name := syscall.IPPROTO_IP, sock.IPRecvOrigDst
		if at.V6 {
			level, name = syscall.IPPROTO_IPV6, sock.IPv6RecvOrigDst
		}
		if err := sock.Option(fd, level, name, 1); err != nil {
			return os.NewSyscallError("setsockopt(IP_RECVORIGDSTADDR)", err)
		}
	}
	return nil
}

// guard has packets of one address wait for the relay's word.
func (p *Plane) guard(f, bridge int, ip []byte) error {
	if p.queue == nil {
		return nil
	}
	return p.addGate(f, bridge, ip)
}

// bridgeMAC is the gateway's: it stays what it is when ports come and go.
func bridgeMAC(w *wire.Interface) []byte {
	mac := []byte{2, 0x42, 0, 0, 0, 0}
	copy(mac[2:], w.Gateway4)
	if len(w.Gateway4) == 0 {
		copy(mac[2:], w.Gateway6[max(0, len(w.Gateway6)-4):])
	}
	return mac
}

// bridgeOn finds or makes the bridge of w in the namespace of c. It returns the
// index, and whether nobody else made it.
func bridgeOn(c *netlink.Conn, w *wire.Interface) (index int, made bool, err error) {
	if index, err := netlink.Index(w.Bridge); err == nil {
		if w.Named || w.IP6 != nil { // this machine's own, perhaps, or made before there was IPv6
			err = addressed(c, w, index)
		}
		return index, false, err
	}
	add := []*netlink.Message{netlink.AddBridge(w.Bridge, bridgeMAC(w), mtu(w))}
	if w.Named {
		add = append(add, netlink.SetAlias(w.Bridge, ownBridge)) // in one step: RemoveNetwork asks for it
	}
	err = c.Do(add...)
	if err != nil && !netlink.Is(err, syscall.EEXIST) {
		if netlink.Is(err, syscall.EOPNOTSUPP) {
			err = errs.WithHint(errs.E("make the bridge "+w.Bridge, errs.Unsupported, err), "The kernel has no bridges: load the module 'bridge'.")
		}
		return 0, false, err
	}
	made = err == nil
	if index, err = netlink.Index(w.Bridge); err != nil {
		return 0, false, err
	}
	_ = netns.Sysctl("net/ipv6/conf/"+w.Bridge+"/accept_ra", "0") // containers are nobody's router; without IPv6 none is heard
	if w.IP6 != nil {
		// Until its link-local address has been found to be nobody else's, for a second
		// or two, a bridge asks for no neighbour.
		_ = netns.Sysctl("net/ipv6/conf/"+w.Bridge+"/accept_dad", "0") // a matter of time
	}
	return index, made, addressed(c, w, index)
}

// ownBridge is noted with bridges that have a name of the user's and are ours.
const ownBridge = "cais"

// addressed gives the bridge the addresses of the gateway.
func addressed(c *netlink.Conn, w *wire.Interface, index int) error {
	if w.NoBridge {
		return nil
	}
	for _, a := range []struct {
		ip   []byte
		bits int
	}{{w.Gateway4, w.Bits4}, {w.Gateway6, w.Bits6}} {
		if a.ip == nil {
			continue
		}
		err := c.Do(netlink.AddAddress(index, a.ip, a.bits))
		if err != nil && !netlink.Is(err, syscall.EEXIST) && !(len(a.ip) == 16 && netlink.Is(err, syscall.EACCES)) {
			return err // EACCES: IPv6 is switched off
		}
	}
	return nil
}

func mtu(w *wire.Interface) int {
	if w.MTU > 0 {
		return w.MTU
	}
	return 1500
}

// What an IPv4 packet may carry between a container and the kernel of the gateway
// namespace, which ends every connection: the most that the kernel takes
// (GSO_MAX_SIZE), which saves a fifth of the processor time. It is not for packets that
// go on to a wire or to a program. Nor is it for those to a container that has others
// behind it, whose devices take as much as a wire's: the kernel would cut them up, at a
// fifth of the speed. A bridge stays small once it had such a container.
const (
	largeIPv4 = 8 * 65535
	smallIPv4 = 65536
)

// addVeth makes the pair of devices of w, one end in the bridge, the other in the
// container. large is what an IPv4 packet may carry between them; 0: as on a wire.
func addVeth(c *netlink.Conn, w *wire.Interface, name string, bridge, ns, large int) error {
	v := netlink.Veth{Name: name, Master: bridge, MTU: mtu(w), Peer: w.Name, PeerMAC: w.MAC, PeerNS: ns, MaxIPv4: large}
	err := c.Do(netlink.AddVeth(v))
	if large > 0 && netlink.Is(err, syscall.EINVAL) { // a kernel whose veth takes no more than others
		v.MaxIPv4 = 0
		err = c.Do(netlink.AddVeth(v))
	}
	if err != nil {
		if netlink.Is(err, syscall.EOPNOTSUPP) {
			return errs.WithHint(errs.E("make the devices of the network", errs.Unsupported, err),
				"The kernel has no veth devices (CONFIG_VETH). '--network host' works without.")
		}
		return err
	}
	if w.Isolated {
		index, err := netlink.Index(name)
		if err != nil {
			return err
		}
		return c.Do(netlink.SetIsolated(index))
	}
	return nil
}
