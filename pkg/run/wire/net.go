package wire

// Net is the network of one container, as a command decided it. The monitor makes
// it: before the container's program runs, again whenever it starts the container
// again, and anew when a [Network] message brings another one.
//
// An address is 4 or 16 bytes, in the order of the network; nil is none. A
// descriptor is told by its place, counted from 1, among those that [Hold]
// messages brought; 0 is none.
type Net struct {
	Engine string // relay, netstack, bridge; "": nothing is to be made
	Dir    string // config's Paths.Run + "/net": the topology's lock and the register of gateways
	// Without names features of the kernel that are not to be used, separated by
	// commas: for tests.
	Without string

	Interfaces []Interface
	Ports      []Port
	Names      Names

	// HostLoopback makes the host's name and the gateways lead to 127.0.0.1
	// instead of an address that peers see.
	HostLoopback bool
	// NoHost refuses connections to the host's own addresses; relay and netstack.
	NoHost bool
	// HostIPs are the addresses that mean the host besides the gateways.
	HostIPs [][]byte
	// Sysctls are key=value, written in the container's namespace before its
	// interfaces have addresses. What the kernel does not know is left out.
	Sysctls []string
	// Program is cais-netstack, for engine netstack and where relay turns out to be
	// impossible; "": it is not installed.
	Program string
	// StartEvents and EndEvents are what a start and an end of the container mean for
	// these networks, as a Job's.
	StartEvents, EndEvents []string
	// Forwards says that the container can have others behind it.
	Forwards bool
}

// Interface is an end of a network in the container.
type Interface struct {
	Endpoint string // its id: by it an interface is the same one in two Nets
	Network  string // the network's id
	Name     string // in the container: eth0
	Driver   string // bridge, macvlan, ipvlan; "" is bridge
	Bridge   string // the bridge's name, at most 15 bytes; made by the first who needs it
	Parent   string // of macvlan and ipvlan
	Mode     string // of macvlan and ipvlan; "" is the kernel's
	MAC      []byte
	MTU      int // 0: 1500

	IP4, IP6     []byte
	Bits4, Bits6 int    // length of the prefix: that of the network's subnet
	Gateway4     []byte // of the network; with bridge it is the bridge's own
	Gateway6     []byte
	Default4     bool // the container's default route goes through here
	Default6     bool

	Internal bool // nothing leaves the network
	Isolated bool // no frames between its containers: com.docker.network.bridge.enable_icc=false
	NoMasq   bool // bridge engine: addresses leave as they are
	NoBridge bool // the bridge gets no address: gateway mode isolated, inhibit_ipv4
	Routed4  bool // bridge engine, gateway mode routed: reached from outside without a port map

	Sysctls []string // key=value with IFNAME for the interface's name
	Held    int      // the locked endpoint file, held while the interface lives

	LinkLocal [][]byte // further addresses, of the link only

	// Named says that the user chose the bridge's name: it may be one of this machine's
	// own, which is nobody's to remove.
	Named      bool
	NoHost     bool // bridge engine: the host's own addresses are refused
	NoMetadata bool // 169.254.169.254 is refused

	Routed6      bool
	Open4, Open6 bool     // bridge engine, gateway mode nat-unprotected: all ports are reached from outside
	Trusted      []string // bridge engine: devices of the host from which containers' own addresses are reached

	Routes []Route // beside the default one
}

// Route is one that the user gave a network.
type Route struct {
	Dst     []byte
	Bits    int
	Gateway []byte
	Metric  int
}

// Port is one published port.
type Port struct {
	Proto    string // tcp, udp, sctp
	HostIP   []byte // 0.0.0.0 and :: are all of their family
	HostPort int
	To       []byte // the container's address
	Port     int    // in the container
	Socket   int    // bound, for tcp listening; sctp has none
	Or       []byte // the container's address of the other family, for when nobody listens at To; may be nil
}

// Names is what the name server at 127.0.0.11 knows. Its fields are those of
// package dns.
type Names struct {
	On     bool
	Config []byte
}

// Hold brings descriptors that a later message of this connection names by
// number; there are more of them than fit beside one packet.
type Hold struct{}

// Network asks for another network for the container that runs: the marshalled
// [Net] is in the descriptor beside it. Answered by Done.
type Network struct{}

// The kinds of these messages.
const (
	KindNet     Kind = 48 // never a packet: in a Job, and the content of Network's memfd
	KindHold    Kind = 49
	KindNetwork Kind = 50
)

// MaxHold is how many descriptors one Hold brings at most.
const MaxHold = 240

func (*Net) Kind() Kind     { return KindNet }     // Kind returns the message's first byte.
func (*Hold) Kind() Kind    { return KindHold }    // Kind returns the message's first byte.
func (*Network) Kind() Kind { return KindNetwork } // Kind returns the message's first byte.

func (*Hold) fields(*coder)    {}
func (*Network) fields(*coder) {}

func (m *Net) fields(c *coder) {
	c.str(&m.Engine)
	c.str(&m.Dir)
	c.str(&m.Without)
	list(c, &m.Interfaces, (*Interface).fields)
	list(c, &m.Ports, (*Port).fields)
	c.flag(&m.Names.On)
	c.bytes(&m.Names.Config)
	c.flag(&m.HostLoopback)
	c.flag(&m.NoHost)
	list(c, &m.HostIPs, func(p *[]byte, c *coder) { c.bytes(p) })
	c.strs(&m.Sysctls)
	c.str(&m.Program)
	c.strs(&m.StartEvents)
	c.strs(&m.EndEvents)
	c.flag(&m.Forwards)
}

func (m *Interface) fields(c *coder) {
	c.str(&m.Endpoint)
	c.str(&m.Network)
	c.str(&m.Name)
	c.str(&m.Driver)
	c.str(&m.Bridge)
	c.str(&m.Parent)
	c.str(&m.Mode)
	c.bytes(&m.MAC)
	c.int(&m.MTU)
	c.bytes(&m.IP4)
	c.bytes(&m.IP6)
	c.int(&m.Bits4)
	c.int(&m.Bits6)
	c.bytes(&m.Gateway4)
	c.bytes(&m.Gateway6)
	c.flag(&m.Default4)
	c.flag(&m.Default6)
	c.flag(&m.Internal)
	c.flag(&m.Isolated)
	c.flag(&m.NoMasq)
	c.flag(&m.NoBridge)
	c.flag(&m.Routed4)
	c.strs(&m.Sysctls)
	c.int(&m.Held)
	list(c, &m.LinkLocal, func(p *[]byte, c *coder) { c.bytes(p) })
	c.flag(&m.Named)
	c.flag(&m.NoHost)
	c.flag(&m.NoMetadata)
	c.flag(&m.Routed6)
	c.flag(&m.Open4)
	c.flag(&m.Open6)
	c.strs(&m.Trusted)
	list(c, &m.Routes, (*Route).fields)
}

func (m *Route) fields(c *coder) {
	c.bytes(&m.Dst)
	c.int(&m.Bits)
	c.bytes(&m.Gateway)
	c.int(&m.Metric)
}

func (m *Port) fields(c *coder) {
	c.str(&m.Proto)
	c.bytes(&m.HostIP)
	c.int(&m.HostPort)
	c.bytes(&m.To)
	c.int(&m.Port)
	c.int(&m.Socket)
	c.bytes(&m.Or)
}

// list codes a list whose elements have each a length of their own in front, so
// that they, too, may grow at their end.
func list[T any](c *coder, p *[]T, fields func(*T, *coder)) {
	n := uint64(len(*p))
	c.num(&n, 4)
	if !c.reading {
		for i := range *p {
			at := len(c.b)
			c.b = append(c.b, 0, 0, 0, 0)
			fields(&(*p)[i], c)
			for k := range 4 {
				c.b[at+k] = byte(uint32(len(c.b)-at-4) >> (8 * k))
			}
		}
		return
	}
	*p = nil
	if n > uint64(len(c.b)/4) {
		c.bad = true
		c.b = nil
		return
	}
	if n > 0 {
		*p = make([]T, n)
	}
	for i := range *p {
		var b []byte
		c.bytes(&b)
		sub := coder{b: b, reading: true}
		fields(&(*p)[i], &sub)
		c.bad = c.bad || sub.bad
	}
}
