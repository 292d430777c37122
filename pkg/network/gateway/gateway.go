// Package gateway makes and finds G, the network namespace in which the kernel
// ends a user's containers' connections: bridges are in it, one for each network,
// and rules that hand every packet from there to the relay of its container. Nobody
// owns it: it lives while a monitor has a thread or a socket in it, and goes with
// the last. A monitor is made of this package.
package gateway

import (
	"os"
	"strconv"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nft"
	"cais.dev/cais/pkg/network/relay"
	"cais.dev/cais/pkg/network/sock"
)

// Plain makes a gateway without rules, in which bridges connect containers and
// cais-netstack does the rest. It is another namespace than the one with rules.
const Plain = "plain"

// Gateway is a thread in G.
type Gateway struct {
	Thread *netns.Thread
	Route  *netlink.Conn // in G
	Filter *netlink.Conn // in G; what has a table of this socket goes with it
	Has    Features

	entry string // our file in the register
	held  int    // its lock
	made  bool   // by us
}

// Features is what the kernel can do for a relay.
type Features struct {
	IP6    bool
	Queue  bool // nft's own queue expression
	Compat bool // xtables' NFQUEUE target
}

// Open finds G by the register in dir, or makes it, and registers this process.
// without names features that are not to be used, separated by commas.
func Open(dir, without string) (*Gateway, error) {
	register := dir + "/gw"
	if without == Plain {
		register = dir + "/plain"
	}
	if err := mkdirs(dir, register); err != nil {
		return nil, err
	}
	lock, err := open(dir+"/gateway.lock", syscall.O_RDWR|syscall.O_CREAT)
	if err != nil {
		return nil, err
	}
	defer func() { _ = syscall.Close(lock) }() // nothing was written
	if err := flock(lock, syscall.LOCK_EX); err != nil {
		return nil, &os.PathError{Op: "flock", Path: dir + "/gateway.lock", Err: err}
	}
	ns := find(register)
	g := &Gateway{held: -1, made: ns < 0}
	g.Thread, err = netns.Start(ns)
	if ns >= 0 {
		_ = syscall.Close(ns) // a handle
	}
	if err != nil {
		return nil, errs.WithHint(errs.E("make the gateway's network namespace", errs.Denied, err),
			"The host may allow no more of them: see 'sysctl user.max_net_namespaces'. '--network host' and '--network none' work without.")
	}
	if err := g.begin(register, without); err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

func (g *Gateway) begin(register, without string) error {
	err := g.Do(g.dial)
	if err != nil {
		return err
	}
	features := register + "/features"
	if g.made && without != Plain {
		if err := g.setUp(without); err != nil {
			return err
		}
		g.probe(without)
		if err := writeFile(features, g.Has.String()); err != nil {
			return err
		}
	} else if !g.made {
		text, _ := os.ReadFile(features) // without it there are none
		g.Has = parseFeatures(string(text))
	}
	g.entry = register + "/" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(g.Thread.TID)
	if g.held, err = open(g.entry, syscall.O_RDWR|syscall.O_CREAT); err != nil {
		return err
	}
	if err := flock(g.held, syscall.LOCK_EX); err != nil {
		return &os.PathError{Op: "flock", Path: g.entry, Err: err}
	}
	return nil
}

// dial opens the kernel's sockets, on the thread in G.
func (g *Gateway) dial() (err error) {
	if g.Route, err = netlink.Dial(netlink.FamilyRoute); err == nil {
		g.Filter, err = netlink.Dial(netlink.FamilyNetfilter)
	}
	return err
}

// Close leaves G.
func (g *Gateway) Close() {
	if g == nil {
		return
	}
	if g.entry != "" {
		_ = syscall.Unlink(g.entry) // or the next who looks does
	}
	g.Filter.Close()
	g.Route.Close()
	g.Thread.End()
	if g.held >= 0 {
		_ = syscall.Close(g.held) // never written
		g.held = -1
	}
}

// Do calls f on the thread in G.
func (g *Gateway) Do(f func() error) error {
	var err error
	g.Thread.Do(func() { err = f() })
	return err
}

// Sockets makes n transparent sockets in G.
func (g *Gateway) Sockets(k sock.Kind, n int) ([]int, error) {
	var fds []int
	err := g.Do(func() error {
		for range n {
			fd, err := sock.Open(k)
			if err != nil {
				return os.NewSyscallError("socket", err)
			}
			fds = append(fds, fd)
			if k < sock.Raw4 {
				if err := sock.Transparent(fd, k == sock.TCP6 || k == sock.UDP6); err != nil {
					return os.NewSyscallError("setsockopt(IP_TRANSPARENT)", err)
				}
			}
		}
		return nil
	})
	if err != nil && len(fds) > 0 && len(fds) < n { // the last one may be half made
		err = nil
	}
	if err != nil {
		for _, fd := range fds {
			_ = syscall.Close(fd) // unused
		}
		return nil, err
	}
	return fds, nil
}

// find returns the namespace of a living entry of the register, or -1. Entries of
// the dead are removed. The caller holds the lock of the register.
func find(dir string) int {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return -1
	}
	found := -1
	for _, e := range entries {
		name := e.Name()
		pid, tid, ok := numbers(name)
		if !ok {
			continue
		}
		fd, err := open(dir+"/"+name, syscall.O_RDONLY)
		if err != nil {
			continue // it has just left
		}
		err = flock(fd, syscall.LOCK_SH|syscall.LOCK_NB)
		_ = syscall.Close(fd) // only read
		if err == nil {
			_ = syscall.Unlink(dir + "/" + name) // nobody holds it: it is dead
			continue
		}
		if found >= 0 {
			continue
		}
		if ns, err := netns.Open(netns.Path(pid, tid)); err == nil {
			found = ns
		}
	}
	return found
}

// numbers reads the name of an entry: pid-tid.
func numbers(name string) (pid, tid int, ok bool) {
	for i := range len(name) {
		if name[i] == '-' {
			p, err1 := strconv.Atoi(name[:i])
			t, err2 := strconv.Atoi(name[i+1:])
			return p, t, err1 == nil && err2 == nil
		}
	}
	return 0, 0, false
}

// setUp makes a new namespace into a gateway.
func (g *Gateway) setUp(without string) error {
	if contains(without, "tproxy") {
		return errs.New(errs.Unsupported, "tproxy is not to be used")
	}
	return g.Do(func() error {
		for _, s := range [][2]string{
			{"net/ipv4/ip_forward", "0"}, // new namespaces inherit it
			// Else the rules see bridged frames, and the socket that they choose is lost.
			{"net/bridge/bridge-nf-call-iptables", "0"},
			{"net/bridge/bridge-nf-call-ip6tables", "0"},
			{"net/bridge/bridge-nf-call-arptables", "0"},
			{"net/ipv4/conf/all/rp_filter", "0"}, // a rule does it
			{"net/ipv4/conf/default/rp_filter", "0"},
			{"net/ipv6/conf/default/accept_ra", "0"},
			// What is unreachable says so each time: nobody but our containers hears it.
			{"net/ipv4/icmp_ratemask", "0"},
			{"net/ipv6/icmp/ratemask", "0"},
			// Connections with containers lose nothing and are never held up. The host's
			// way with congestion may be one that paces (bbr): a third more processor time.
			{"net/ipv4/tcp_congestion_control", "reno"},
		} {
			if was, err := os.ReadFile("/proc/sys/" + s[0]); err == nil && string(was) == s[1]+"\n" {
				continue // also where nothing can be written
			}
			err := netns.Sysctl(s[0], s[1])
			if err != nil && s[0] == "net/bridge/bridge-nf-call-iptables" && !isNotExist(err) {
				return errs.WithHint(errs.E("keep the bridge's frames from the rules", errs.Unsupported, err),
					"/proc/sys is read-only here and the kernel's br_netfilter is on.")
			}
		}
		const lo = 1
		v4, v6 := make([]byte, 4), make([]byte, 16)
		if err := g.Route.Do(netlink.SetUp(lo), netlink.AddRoute(netlink.Route{Dst: v4, Index: lo, Local: true})); err != nil {
			return err
		}
		g.Has.IP6 = !contains(without, "ipv6") && g.Route.Do(netlink.AddRoute(netlink.Route{Dst: v6, Index: lo, Local: true})) == nil
		if err := g.Filter.Batch(table(nft.IP)...); err != nil {
			return errs.WithHint(errs.E("make the gateway's rules", errs.Unsupported, err),
				"The kernel lacks nf_tables or its tproxy (Linux 4.19, CONFIG_NFT_TPROXY).")
		}
		if g.Has.IP6 && g.Filter.Batch(table(nft.IP6)...) != nil {
			g.Has.IP6 = false
		}
		return nil
	})
}

const tableName = "cais"

// table returns the rules of one family, which are the same for all containers.
func table(f byte) []*netlink.Message {
	const n = tableName
	echo, icmp, unreachable := byte(8), byte(1), byte(1)
	saddr := nft.Payload(nft.Network, 12, 4, 1)
	if f == nft.IP6 {
		echo, icmp, unreachable = 128, 58, 3
		saddr = nft.Payload(nft.Network, 8, 16, 1)
	}
	rule := func(chain string, e ...nft.Expr) *netlink.Message { return nft.Rule(f, n, chain, e...) }
	lo := []nft.Expr{nft.Meta(nft.MetaIIF, 1), nft.Eq(1, 1, 0, 0, 0), nft.Verdict(nft.Accept)}
	mark := func(m byte) []nft.Expr {
		return []nft.Expr{nft.Meta(nft.MetaMark, 1), nft.Eq(1, m, 0, 0, 0)}
	}
	proto := func(p byte) []nft.Expr { return []nft.Expr{nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, p)} }
	port := nft.Set(2, relay.Port>>8, relay.Port&0xff)
	tproxy := []nft.Expr{saddr, port, nft.TProxy(f, 1, 2), nft.Verdict(nft.Accept)}
	return []*netlink.Message{
		nft.Table(f, n, 0, true),
		// Sources that do not belong to the bridge, and other networks.
		nft.Base(f, n, "guard", "filter", nft.Prerouting, -300, nft.Accept),
		rule("guard", lo...),
		rule("guard", nft.FIB(nft.FIBOif, nft.FIBSaddr|nft.FIBIif, 1), nft.Eq(1, 0, 0, 0, 0), nft.Verdict(nft.Drop)),
		rule("guard", nft.FIB(nft.FIBAddrType, nft.FIBDaddr, 1), nft.Eq(1, nft.TypeUnicast, 0, 0, 0), nft.RejectICMP(unreachable)),
		// To the relay at the packet's own source.
		nft.Base(f, n, "pre", "filter", nft.Prerouting, -150, nft.Accept),
		rule("pre", nft.Meta(nft.MetaMark, 1), nft.Ne(1, 0, 0, 0, 0), nft.Verdict(nft.Accept)),
		rule("pre", lo...),
		rule("pre", nft.All(proto(6), synOnly(), tproxy)...),
		rule("pre", nft.All(proto(17), tproxy)...),
		rule("pre", nft.All(proto(icmp), []nft.Expr{nft.Payload(nft.Transport, 0, 1, 1), nft.Eq(1, echo), nft.Verdict(nft.Drop)})...),
		// Verdicts of the relays.
		nft.Base(f, n, "in", "filter", nft.Input, 0, nft.Accept),
		rule("in", nft.All(mark(relay.MarkRefused), proto(6), []nft.Expr{nft.RejectReset()})...),
		rule("in", nft.All(mark(relay.MarkUnreachable), []nft.Expr{nft.RejectICMP(unreachable)})...),
		nft.Base(f, n, "between", "filter", nft.Forward, 0, nft.Drop),
	}
}

// synOnly matches what asks for a connection.
func synOnly() []nft.Expr {
	return []nft.Expr{nft.Payload(nft.Transport, 13, 1, 1), nft.And(1, 0x12), nft.Eq(1, 2)}
}

// probe tries the queues, in a table that vanishes.
func (g *Gateway) probe(without string) {
	g.Has.Queue = !contains(without, "queue") && g.try(nft.Queue(1, true))
	g.Has.Compat = !contains(without, "nfqueue") && !g.Has.Queue && g.try(nft.QueueCompat(1, true))
}

func (g *Gateway) try(e nft.Expr) bool {
	var err error
	g.Thread.Do(func() {
		var c *netlink.Conn
		if c, err = netlink.Dial(netlink.FamilyNetfilter); err != nil {
			return
		}
		defer c.Close()
		err = c.Batch(nft.Table(nft.IP, "probe", 0, true),
			nft.Base(nft.IP, "probe", "pre", "filter", nft.Prerouting, 0, nft.Accept), nft.Rule(nft.IP, "probe", "pre", e))
		if err == nil {
			err = c.Batch(nft.DeleteTable(nft.IP, "probe"))
		}
	})
	return err == nil
}

// Gate returns the rules that hold packets of one address for the queue num; the
// table is ours until it goes with g.Filter.
func (g *Gateway) Gate(name string, f byte, bridge int, ip []byte, num uint16) []*netlink.Message {
	echo, icmp := byte(8), byte(1)
	saddr := nft.Payload(nft.Network, 12, 4, 1)
	if f == nft.IP6 {
		echo, icmp = 128, 58
		saddr = nft.Payload(nft.Network, 8, 16, 1)
	}
	queue := nft.Queue
	if !g.Has.Queue {
		queue = nft.QueueCompat
	}
	from := []nft.Expr{saddr, nft.Eq(1, ip...), nft.Meta(nft.MetaIIF, 1), nft.Eq(1, byte(bridge), byte(bridge>>8), byte(bridge>>16), byte(bridge>>24))}
	proto := func(p byte) []nft.Expr { return []nft.Expr{nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, p)} }
	return []*netlink.Message{
		nft.Rule(f, name, "gate", nft.All(proto(6), synOnly(), from, []nft.Expr{queue(num, true)})...),
		nft.Rule(f, name, "gate", nft.All(proto(icmp), []nft.Expr{nft.Payload(nft.Transport, 0, 1, 1), nft.Eq(1, echo)}, from, []nft.Expr{queue(num, true)})...),
	}
}

// String writes features for the register.
func (f Features) String() string {
	var b []byte
	for _, w := range []struct {
		has  bool
		name string
	}{{f.IP6, "ipv6"}, {f.Queue, "queue"}, {f.Compat, "nfqueue"}} {
		if w.has {
			b = append(append(b, w.name...), ',')
		}
	}
	return string(b)
}

func parseFeatures(s string) Features {
	return Features{IP6: contains(s, "ipv6"), Queue: contains(s, "queue"), Compat: contains(s, "nfqueue")}
}

// contains looks for a word of a list with commas.
func contains(list, word string) bool {
	for at := 0; at < len(list); {
		end := at
		for end < len(list) && list[end] != ',' && list[end] != '\n' {
			end++
		}
		if list[at:end] == word {
			return true
		}
		at = end + 1
	}
	return false
}
