// Package plane makes the network that a [wire.Net] describes, for one container:
// devices, addresses, routes, rules, and the relay. It is a monitor's, or a
// build's, and all of it goes with the process.
package plane

import (
	"os"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/gateway"
	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/relay"
	"cais.dev/cais/pkg/network/sock"
	"cais.dev/cais/pkg/run/wire"
)

// The engines.
const (
	Relay    = "relay"    // a gateway namespace whose connections the relay ends
	Bridge   = "bridge"   // a bridge of the host's, with NAT
	Netstack = "netstack" // a program that speaks TCP itself
)

// Names is the name server of a container.
type Names interface {
	// Start gets the sockets of 127.0.0.11 in the container.
	Start(udp, tcp int, config []byte) error
	// Update changes what is known.
	Update(config []byte) error
	Stop()
}

// Plane is the network of one container.
type Plane struct {
	l     *loop.Loop
	note  func(string)
	names Names

	net  wire.Net
	held []int // descriptors by their number less one; -1 once somebody has it

	gw    *gateway.Gateway
	br    *hostBridge
	r     *relay.Relay
	queue *relay.Queue
	gate  [2]string // our tables in G, by family

	ns      int // of the container; -1: it does not run
	ifs     []*iface
	served  map[service]*relay.Service
	counter int
	stack   int   // pid of cais-netstack; 0: none
	ports   []int // sockets of published ports, which it serves
	naming  bool
}

// service tells a published port.
type service struct {
	proto, ip string
	port      int
}

// iface is one interface that is there.
type iface struct {
	w       wire.Interface
	device  string // its end on the bridge, by name
	bridge  int    // index of the bridge
	lock    int    // the locked endpoint file
	packets int    // a socket for cais-netstack, until that has it; -1
	sources []*relay.Source
}

// New returns a plane that does nothing yet. note tells a log.
func New(l *loop.Loop, names Names, note func(string)) *Plane {
	return &Plane{l: l, note: note, names: names, ns: -1, served: map[service]*relay.Service{}}
}

// Prepare makes what does not need the container. The descriptors in held are the
// plane's from here on, whether it fails or not.
func (p *Plane) Prepare(n *wire.Net, held []int) error {
	p.held = held
	p.net = *n
	var err error
	switch n.Engine {
	case Netstack:
		return p.useStack()
	case Relay:
		if n.Program != "" && n.Without == "" && remembered(n.Dir) {
			return p.useStack()
		}
		p.gw, err = gateway.Open(n.Dir, n.Without)
		if errs.KindOf(err) == errs.Unsupported && n.Program != "" {
			p.note("the kernel cannot relay: " + err.Error() + "; cais-netstack does it")
			if n.Without == "" {
				remember(n.Dir)
			}
			return p.useStack()
		}
		if err != nil {
			return err
		}
		p.r = relay.New(p.config(p.gw.Sockets, true))
		if err := p.listen(); err != nil {
			return err
		}
	case Bridge:
		if p.br, err = openBridge(); err != nil {
			return err
		}
		p.br.noFIB = n.Without == "fib"
		p.br.noPortFIB = p.br.noFIB
		p.r = relay.New(p.config(hostSockets, false))
	default:
		return errs.New(errs.Unsupported, "this monitor knows no network engine "+strconv.Quote(n.Engine))
	}
	return p.publish()
}

func (p *Plane) config(m relay.Maker, transparent bool) relay.Config {
	c := relay.Config{
		Loop: p.l, Make: m, Transparent: transparent, Note: p.note,
		HostLoopback: p.net.HostLoopback, NoHost: p.net.NoHost, HostIPs: p.net.HostIPs,
	}
	return c
}

func hostSockets(k sock.Kind, n int) ([]int, error) {
	var fds []int
	for range n {
		fd, err := sock.Open(k)
		if err != nil {
			break
		}
		fds = append(fds, fd)
	}
	if len(fds) == 0 {
		return nil, os.NewSyscallError("socket", syscall.EMFILE)
	}
	return fds, nil
}

// listen begins to read the packets that wait in the kernel for a verdict.
func (p *Plane) listen() error {
	if !p.gw.Has.Queue && !p.gw.Has.Compat {
		return nil // connections are accepted before they are made
	}
	err := p.gw.Do(func() (err error) {
		p.queue, err = relay.NewQueue(uint16(os.Getpid()%60000) + 1)
		return err
	})
	if err != nil {
		return err
	}
	return p.r.Listen(p.queue)
}

// take gives a descriptor away; -1 if there is none of that number.
func (p *Plane) take(number int) int {
	if number < 1 || number > len(p.held) {
		return -1
	}
	fd := p.held[number-1]
	p.held[number-1] = -1
	return fd
}

// publish serves the ports of the net, as soon as the container runs.
func (p *Plane) publish() error {
	wanted := map[service]bool{}
	for i := range p.net.Ports {
		w := &p.net.Ports[i]
		key := service{w.Proto, string(w.HostIP), w.HostPort}
		wanted[key] = true
		to, or := sock.At(w.To, uint16(w.Port)), sock.Addr{}
		if w.Or != nil {
			or = sock.At(w.Or, uint16(w.Port))
		}
		if s := p.served[key]; s != nil {
			s.To, s.Or = to, or // it may lead to another network now
			continue
		}
		if w.Proto == "sctp" {
			continue
		}
		fd := p.take(w.Socket)
		if fd < 0 {
			return errs.New(errs.Internal, "wire: a published port without its socket")
		}
		s := &relay.Service{FD: fd, UDP: w.Proto == "udp", To: to, Or: or}
		p.served[key] = s
		if err := syscall.SetNonblock(fd, true); err != nil {
			return os.NewSyscallError("fcntl", err)
		}
		if err := p.r.Publish(s); err != nil {
			return err
		}
	}
	for key, s := range p.served {
		if !wanted[key] {
			p.r.Withdraw(s)
			delete(p.served, key)
		}
	}
	if p.ns < 0 {
		p.r.Pause()
	}
	return nil
}

// Attach gives the network to the container whose process is pid.
func (p *Plane) Attach(pid int) error {
	ns, err := netns.Open("/proc/" + strconv.Itoa(pid) + "/ns/net")
	if err != nil {
		return err
	}
	return p.AttachNS(ns)
}

// AttachNS gives the network to the namespace that ns refers to, which is the
// plane's from here on.
func (p *Plane) AttachNS(ns int) error {
	p.ns = ns
	for i := range p.net.Interfaces {
		if err := p.add(&p.net.Interfaces[i]); err != nil {
			return err
		}
	}
	if err := p.configure(p.ifs, true); err != nil {
		return err
	}
	if err := p.mapPorts(); err != nil {
		return err
	}
	if p.net.Engine == Netstack {
		return p.startStack()
	}
	return p.r.Resume()
}

// Detach is the container's end: connections end, its devices go with its
// namespace, and who knocks at its ports waits for the next start.
func (p *Plane) Detach() {
	if p == nil || p.ns < 0 {
		return
	}
	p.stopNames()
	p.stopStack()
	p.br.forget()
	p.r.Pause()
	p.r.Reset()
	p.l.Close(&p.ns)
}

// Close gives up everything. Locks of endpoints go last: whoever sees one free
// may take the address.
func (p *Plane) Close() {
	if p == nil {
		return
	}
	p.Detach()
	if p.r != nil {
		p.r.Close()
	}
	p.queue.Close()
	p.unplug()
	p.br.close()
	p.gw.Close()
	for _, i := range p.ifs {
		p.l.Close(&i.lock)
	}
	p.ifs = nil
	for i := range p.ports {
		p.l.Close(&p.ports[i])
	}
	for i := range p.held {
		p.l.Close(&p.held[i])
	}
}

// unplug keeps what the container's namespace still says from the bridges. It goes
// by itself, but later: until then it would answer for an address that is another's
// already.
func (p *Plane) unplug() {
	remove := func(c *netlink.Conn) {
		for _, i := range p.ifs {
			if i.device == "" {
				continue
			}
			if index, err := netlink.Index(i.device); err == nil {
				_ = c.Do(netlink.SetSilent(index)) // or it has gone meanwhile
			}
		}
	}
	switch {
	case p.gw != nil:
		_ = p.gw.Do(func() error { remove(p.gw.Route); return nil })
	case p.br != nil:
		remove(p.br.route)
	}
}

// Linger reports whether connections still take what the container has said last.
// With now they are broken off.
func (p *Plane) Linger(now bool) bool {
	if p == nil || p.r == nil {
		return false
	}
	if now {
		p.r.Abort()
	}
	return p.r.Busy()
}

// Update makes the container's network another one.
func (p *Plane) Update(n *wire.Net, held []int) error {
	for i := range p.held {
		p.l.Close(&p.held[i])
	}
	p.held = held
	if p.ns < 0 {
		return errs.New(errs.Conflict, "the container is not running")
	}
	if p.net.Engine == Netstack {
		return errs.WithHint(errs.New(errs.Unsupported, "the network of a running container cannot be changed here"),
			"The kernel cannot relay, and cais-netstack serves what the container was started with: restart the container.")
	}
	if n.Engine != p.net.Engine {
		return errs.New(errs.Conflict, "the network engine of a running container does not change")
	}
	p.net = *n
	kept := p.ifs[:0:0]
	for _, i := range p.ifs {
		if p.wanted(i.w.Endpoint) == nil {
			if err := p.remove(i); err != nil {
				return err
			}
			continue
		}
		kept = append(kept, i)
	}
	p.ifs = kept
	var added []*iface
	for k := range p.net.Interfaces {
		w := &p.net.Interfaces[k]
		if i := p.find(w.Endpoint); i != nil {
			i.w.Default4, i.w.Default6 = w.Default4, w.Default6
			continue
		}
		if err := p.add(w); err != nil {
			return err
		}
		added = append(added, p.ifs[len(p.ifs)-1])
	}
	if err := p.configure(added, false); err != nil {
		return err
	}
	if err := p.publish(); err != nil {
		return err
	}
	return p.mapPorts()
}

func (p *Plane) wanted(endpoint string) *wire.Interface {
	for i := range p.net.Interfaces {
		if p.net.Interfaces[i].Endpoint == endpoint {
			return &p.net.Interfaces[i]
		}
	}
	return nil
}

func (p *Plane) find(endpoint string) *iface {
	for _, i := range p.ifs {
		if i.w.Endpoint == endpoint {
			return i
		}
	}
	return nil
}

// add makes one interface: the bridge if need be, the pair of devices, and what
// relays for its addresses.
func (p *Plane) add(w *wire.Interface) error {
	i := p.find(w.Endpoint)
	if i == nil {
		i = &iface{w: *w, lock: p.take(w.Held), packets: -1}
		p.ifs = append(p.ifs, i)
	}
	p.counter++
	name := "v" + short(w.Endpoint) + strconv.FormatInt(int64(p.counter%1296), 36)
	i.device = name
	if p.gw != nil {
		return p.gw.Do(func() error { return p.inside(i, name) })
	}
	return p.br.add(i, name, p.ns)
}

// subnets tells the relay which addresses are containers'.
func (p *Plane) subnets() {
	var list []relay.Subnet
	for _, i := range p.ifs {
		if i.w.IP4 != nil {
			list = append(list, relay.Subnet{IP: i.w.IP4, Bits: i.w.Bits4})
		}
		if i.w.IP6 != nil {
			list = append(list, relay.Subnet{IP: i.w.IP6, Bits: i.w.Bits6})
		}
	}
	p.r.SetSubnets(list)
}
