package connect

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// publish binds the container's ports on this machine, all of them or none, and
// puts the sockets among what the monitor gets.
func (s *Service) publish(c *Connection, rec *container.Record, nets []*network.Network) error {
	ports := plan.Published(rec.Request, rec.Image.ExposedPorts)
	if len(ports) == 0 {
		return nil
	}
	to := s.target(c, nets)
	if to < 0 {
		return nil // all its networks are internal: nobody outside reaches it
	}
	o, _, err := network.ReadOptions(nets[to])
	if err != nil {
		return err
	}
	e := c.box.Endpoints[to]
	for _, p := range ports {
		if p.Proto == "sctp" && s.engine() != engineBridge {
			err := errs.New(errs.Unsupported, "publishing the sctp port "+p.Key()+" needs root")
			return errs.WithHint(err, "Without root, tcp and udp can be published.")
		}
		if err := s.bind(c, p, o, e); err != nil {
			return err
		}
	}
	return nil
}

// target is the place of the endpoint that published ports lead to: that of the
// default route.
func (s *Service) target(c *Connection, nets []*network.Network) int {
	for i, w := range c.Net.Interfaces {
		if w.Default4 && nets[i].Driver == network.DriverBridge {
			return i
		}
	}
	for i, w := range c.Net.Interfaces {
		if w.Default6 && nets[i].Driver == network.DriverBridge {
			return i
		}
	}
	return -1
}

// bind binds one port, on both families where no address says which.
func (s *Service) bind(c *Connection, p plan.Port, o network.Options, e network.Endpoint) error {
	var hosts []netip.Addr
	if a, err := netip.ParseAddr(p.HostIP); err == nil {
		hosts = []netip.Addr{a}
	} else {
		hosts = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
		if o.HostIP4.IsValid() {
			hosts = []netip.Addr{o.HostIP4}
			if o.HostIP6.IsValid() {
				hosts = append(hosts, o.HostIP6)
			}
		} else if o.HostIP6.IsValid() {
			hosts[1] = o.HostIP6
		}
	}
	first, last := p.HostPort, max(p.HostPort, p.HostEnd)
	tries := last - first + 1
	if first == 0 {
		tries = 64 // the kernel's choice for one family may be taken in the other
	}
	var err error
	for i := range tries {
		port := first + i
		if first == 0 {
			port = 0
		}
		var sockets []*os.File
		var bound []network.Bound
		if sockets, bound, err = s.bindAll(c, p, hosts, port); err == nil {
			c.add(p, sockets, bound, e)
			return nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			return err
		}
	}
	return err
}

// bindAll binds one port on every address, or on none. Where this machine lacks a
// family that nobody asked for, the other one does.
func (s *Service) bindAll(c *Connection, p plan.Port, hosts []netip.Addr, port int) (files []*os.File, bound []network.Bound, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				_ = f.Close() // nothing was said
			}
			files = nil
		}
	}()
	if p.Proto == "sctp" && port == 0 { // no socket asks the kernel for one
		port = ephemeral()
	}
	for _, host := range hosts {
		if s.taken(c, p.Proto, host, port) {
			return files, nil, &portError{host, port, p.Proto, syscall.EADDRINUSE, true}
		}
		if p.Proto == "sctp" { // the kernel's rules carry it; there is no socket to keep the port
			bound = append(bound, network.Bound{Proto: p.Proto, Port: p.Port, HostIP: host.String(), HostPort: port})
			files = append(files, nil)
			continue
		}
		f, covered, err := passed(s.sockets(), p.Proto, host, port)
		if covered && len(hosts) > 1 {
			continue // by the socket for all IPv6 addresses
		}
		got := port
		if f == nil && err == nil {
			f, got, err = listen(p.Proto, host, port, s.engine() == engineBridge && c.gateway(host))
		}
		if errors.Is(err, syscall.EAFNOSUPPORT) && len(hosts) > 1 || len(files) > 0 && host.IsUnspecified() && errors.Is(err, syscall.EADDRNOTAVAIL) {
			continue
		}
		if err != nil {
			number, _ := errors.AsType[syscall.Errno](err)
			return files, nil, &portError{host, port, p.Proto, number, false}
		}
		port = got // the other family gets the same
		files = append(files, f)
		bound = append(bound, network.Bound{Proto: p.Proto, Port: p.Port, HostIP: host.String(), HostPort: got})
	}
	if len(bound) == 0 {
		return files, nil, &portError{hosts[0], port, p.Proto, syscall.EAFNOSUPPORT, false}
	}
	return files, bound, nil
}

// ephemeral is a random port of those that the kernel gives out itself.
func ephemeral() int {
	first, last := 32768, 60999
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range"); err == nil {
		_, _ = fmt.Sscan(string(text), &first, &last) // else the kernel's defaults
	}
	return first + rand.IntN(max(last-first, 0)+1)
}

// gateway reports whether an address is that of a bridge of the container's, which
// may be still to be made.
func (c *Connection) gateway(a netip.Addr) bool {
	return slices.ContainsFunc(c.box.Endpoints, func(e network.Endpoint) bool { return e.Gateway == a || e.Gateway6 == a })
}

// add notes ports that are bound. A client of a family that the container lacks, or
// does not listen on, is led to its other address.
func (c *Connection) add(p plan.Port, sockets []*os.File, bound []network.Bound, e network.Endpoint) {
	for i, b := range bound {
		host := netip.MustParseAddr(b.HostIP)
		to, or := e.IP, e.IP6
		if host.Is6() && or.IsValid() || !to.IsValid() {
			to, or = or, to
		}
		w := wire.Port{Proto: b.Proto, HostIP: host.AsSlice(), HostPort: b.HostPort, To: bytesOf(to), Or: bytesOf(or), Port: p.Port}
		if sockets[i] != nil {
			w.Socket = c.number(sockets[i])
		}
		c.Net.Ports = append(c.Net.Ports, w)
		c.box.Ports = append(c.box.Ports, b)
	}
}

// keepPorts tells the monitor the ports that it has, and where they lead now.
func (s *Service) keepPorts(c *Connection, nets []*network.Network, old *network.Sandbox) {
	to := s.target(c, nets)
	if to < 0 {
		c.box.Ports = nil
		return
	}
	e := c.box.Endpoints[to]
	c.box.Ports = nil
	for _, b := range old.Ports {
		c.add(plan.Port{Proto: b.Proto, Port: b.Port}, []*os.File{nil}, []network.Bound{b}, e)
	}
}

// portError is a port that could not be bound, in Docker's words.
type portError struct {
	host  netip.Addr
	port  int
	proto string
	err   syscall.Errno
	ours  bool // another container has it
}

// Error says which port, and why.
func (e *portError) Error() string {
	at := netip.AddrPortFrom(e.host, uint16(e.port)).String()
	if e.ours {
		return "Bind for " + at + " failed: port is already allocated"
	}
	return "failed to bind host port " + at + "/" + e.proto + ": " + e.err.Error()
}

// Unwrap returns the kernel's word.
func (e *portError) Unwrap() error { return e.err }

// explain gives a port's error its kind and what to do.
func explain(err error) error {
	p, ok := errors.AsType[*portError](err)
	if !ok {
		return err
	}
	switch p.err {
	case syscall.EACCES, syscall.EPERM:
		return &errs.Error{Kind: errs.Denied, Err: err, Hint: fmt.Sprintf(
			"Ports below %s are root's here. As root: 'sysctl net.ipv4.ip_unprivileged_port_start=%d', or 'setcap cap_net_bind_service=ep' on cais; or publish on a higher one.", unprivileged(), p.port)}
	case syscall.EADDRINUSE:
		who := "'ss -lnp' shows which program has it"
		if p.ours {
			who = "'cais ps' shows which container has it"
		}
		return &errs.Error{Kind: errs.Conflict, Err: err, Hint: who + "; publish on another port, or leave out the host's and 'cais port' tells it."}
	case syscall.EADDRNOTAVAIL:
		return &errs.Error{Kind: errs.Invalid, Err: err, Hint: "The address is none of this machine's."}
	}
	return err
}

func unprivileged() string {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if err != nil {
		return "1024"
	}
	return string(slices.DeleteFunc(b, func(c byte) bool { return c < '0' || c > '9' }))
}

// taken reports whether a port is published already, by this container or by
// another one that lives.
func (s *Service) taken(c *Connection, proto string, host netip.Addr, port int) bool {
	if port == 0 {
		return false
	}
	clash := func(b network.Bound) bool {
		other, err := netip.ParseAddr(b.HostIP)
		return err == nil && b.Proto == proto && b.HostPort == port && (other == host || other.Is4() == host.Is4() && (other.IsUnspecified() || host.IsUnspecified()))
	}
	if slices.ContainsFunc(c.box.Ports, clash) {
		return true
	}
	if c.others == nil { // once for all ports
		c.others = []network.Bound{}
		eps, _ := s.Networks().Endpoints("") // who cannot be read is found by the kernel
		seen := map[string]bool{}
		for _, e := range eps {
			if seen[e.Container] {
				continue
			}
			seen[e.Container] = true
			if box := network.ReadSandbox(s.store.Dir(e.Container)); box != nil && !slices.ContainsFunc(c.held, func(h *network.Held) bool { return h.Container == e.Container }) {
				c.others = append(c.others, box.Ports...)
			}
		}
	}
	return slices.ContainsFunc(c.others, clash)
}

// listen makes a socket of this machine's that is bound, for tcp listening, and
// returns its port. early says that the machine may not have the address yet.
func listen(proto string, host netip.Addr, port int, early bool) (*os.File, int, error) {
	family, kind := syscall.AF_INET, syscall.SOCK_STREAM
	if host.Is6() {
		family = syscall.AF_INET6
	}
	if proto == "udp" {
		kind = syscall.SOCK_DGRAM
	}
	fd, err := syscall.Socket(family, kind|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, 0, os.NewSyscallError("socket", err)
	}
	f := os.NewFile(uintptr(fd), "port "+strconv.Itoa(port))
	var sa syscall.Sockaddr = &syscall.SockaddrInet4{Port: port, Addr: as4(host)}
	if host.Is6() {
		sa = &syscall.SockaddrInet6{Port: port, Addr: host.As16()}
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1)
	}
	if err == nil && proto == "tcp" { // else a port in TIME_WAIT is busy
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1)
	}
	if err == nil && early {
		const freebind4, freebind6 = 15, 78 // linux/in.h, in6.h
		if host.Is4() {
			err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, freebind4, 1)
		} else {
			err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, freebind6, 1)
		}
	}
	if err == nil {
		err = syscall.Bind(fd, sa)
	}
	if err == nil && proto == "tcp" {
		err = syscall.Listen(fd, 4096)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	at, err := syscall.Getsockname(fd)
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	switch at := at.(type) {
	case *syscall.SockaddrInet4:
		port = at.Port
	case *syscall.SockaddrInet6:
		port = at.Port
	}
	return f, port, nil
}

func as4(a netip.Addr) [4]byte {
	if !a.Is4() {
		return [4]byte{}
	}
	return a.As4()
}
