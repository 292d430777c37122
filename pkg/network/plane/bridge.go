package plane

import (
	"errors"
	"io/fs"
	"os"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nft"
	"cais.dev/cais/pkg/run/wire"
)

// hostBridge makes a container's network in the namespace of the monitor itself:
// root's way. Each network has a bridge and a table of rules that live as long as
// the network does; the port maps of a container are in a table that the kernel
// removes with the monitor's socket.
type hostBridge struct {
	route  *netlink.Conn
	filter *netlink.Conn // what has a table of this socket goes with it
	maps   [2]string     // our tables, by family; "": none
	ready  map[string]bool
	noFIB  bool // rules cannot ask for routes: no CONFIG_NFT_FIB_INET

	noPortFIB bool // nor those of ports: no CONFIG_NFT_FIB_IPV4, _IPV6
}

func openBridge() (b *hostBridge, err error) {
	b = &hostBridge{ready: map[string]bool{}}
	if b.route, err = netlink.Dial(netlink.FamilyRoute); err == nil {
		b.filter, err = netlink.Dial(netlink.FamilyNetfilter)
	}
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *hostBridge) close() {
	if b == nil {
		return
	}
	b.filter.Close()
	b.route.Close()
}

// forget has the rules looked at again: a firewall may have been loaded anew.
func (b *hostBridge) forget() {
	if b != nil {
		clear(b.ready)
	}
}

// add makes an interface's end on the host.
func (b *hostBridge) add(i *iface, name string, ns int) (err error) {
	w := &i.w
	switch w.Driver {
	case "macvlan", "ipvlan":
		return b.addOnParent(w, ns)
	}
	if i.bridge, _, err = bridgeOn(b.route, w); err != nil {
		return err
	}
	if !b.ready[w.Bridge] {
		if err := b.open(w); err != nil {
			return err
		}
		b.ready[w.Bridge] = true
	}
	return addVeth(b.route, w, name, i.bridge, ns, 0)
}

// open lets packets from the bridge out and the right ones in.
func (b *hostBridge) open(w *wire.Interface) error {
	if !w.Internal {
		if err := forwarding(w.IP6 != nil); err != nil {
			return err
		}
	}
	var err error
	if !b.noFIB {
		err = b.filter.Batch(networkTable(w, foreignRoute())...)
		b.noFIB = netlink.Is(err, syscall.ENOENT)
	}
	if b.noFIB {
		err = b.filter.Batch(networkTable(w, foreignSubnet(w))...)
	}
	if err != nil && !netlink.Is(err, syscall.EEXIST) {
		return errs.WithHint(errs.E("make the rules of the bridge "+w.Bridge, errs.Unsupported, err),
			"The kernel needs nf_tables with NAT (Linux 5.2). '--network host' works without.")
	}
	if !w.Internal {
		b.letPass(w.Bridge)
	}
	return nil
}

// Restore makes the rules of networks anew.
func Restore(list []wire.Interface) error {
	b, err := openBridge()
	if err != nil {
		return err
	}
	defer b.close()
	for i := range list {
		if err := b.open(&list[i]); err != nil {
			return err
		}
	}
	return nil
}

// forwarding makes the host a router.
func forwarding(v6 bool) error {
	write := func(key, value string) error {
		if was, err := os.ReadFile("/proc/sys/" + key); err == nil && len(was) > 0 && was[0] == value[0] {
			return nil
		}
		err := netns.Sysctl(key, value)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errs.WithHint(errs.E("let the host pass packets on", errs.Denied, err),
				"Set it before: 'sysctl -w "+key+"="+value+"'.")
		}
		return nil
	}
	if err := write("net/ipv4/ip_forward", "1"); err != nil || !v6 {
		return err
	}
	const all = "net/ipv6/conf/all/forwarding"
	if was, err := os.ReadFile("/proc/sys/" + all); err != nil || was[0] == '1' {
		return nil // no IPv6, or done
	}
	// A router takes no router's word unless it is told to: the host would lose its
	// addresses and its default route.
	devices, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return err
	}
	for _, d := range devices {
		key := "net/ipv6/conf/" + d.Name() + "/accept_ra"
		if was, err := os.ReadFile("/proc/sys/" + key); err == nil && len(was) > 0 && was[0] == '1' && d.Name() != "all" {
			if err := write(key, "2"); err != nil {
				return err
			}
		}
	}
	return write(all, "1")
}

// TableOf is the name of a network's table, of the family inet.
func TableOf(bridge string) string { return "cais-" + bridge }

// foreignRoute matches, over a bridge, sources to which no route leads back there.
func foreignRoute() [][]nft.Expr {
	return [][]nft.Expr{{nft.FIB(nft.FIBOif, nft.FIBSaddr|nft.FIBIif, 1), nft.Eq(1, 0, 0, 0, 0)}}
}

// foreignSubnet is foreignRoute for kernels whose rules cannot ask for routes: it
// matches all that is not of the network's subnet, of the link, or still without
// an address.
func foreignSubnet(w *wire.Interface) [][]nft.Expr {
	v4 := []side{{family: nft.IP, ip: make([]byte, 4), bits: 32}}
	v6 := []side{{family: nft.IP6, ip: make([]byte, 16), bits: 128}, {family: nft.IP6, ip: []byte{0xfe, 0x80, 15: 0}, bits: 10}}
	for _, s := range sidesOf(w) {
		if s.family == nft.IP {
			v4 = append(v4, s)
		} else {
			v6 = append(v6, s)
		}
	}
	var lists [][]nft.Expr
	for _, known := range [][]side{v4, v6} {
		e := []nft.Expr{nft.Meta(nft.MetaNFProto, 1), nft.Eq(1, known[0].family)}
		for _, s := range known {
			load, prefix := prefixOf(s.family, s.ip, s.bits, true)
			e = append(append(e, load...), nft.Ne(1, prefix...))
		}
		lists = append(lists, e)
	}
	return lists
}

// networkTable returns the rules of w's network, which are the same for all its
// containers. They fail with EEXIST if they are there. foreign match the sources
// that are nobody's on its bridge.
func networkTable(w *wire.Interface, foreign [][]nft.Expr) []*netlink.Message {
	const f = nft.Inet
	n := TableOf(w.Bridge)
	rule := func(chain string, lists ...[]nft.Expr) *netlink.Message {
		return nft.Rule(f, n, chain, nft.All(lists...)...)
	}
	in := []nft.Expr{nft.Meta(nft.MetaIIFName, 1), nft.Eq(1, nft.Name(w.Bridge)...)}
	notIn := []nft.Expr{nft.Meta(nft.MetaIIFName, 1), nft.Ne(1, nft.Name(w.Bridge)...)}
	out := []nft.Expr{nft.Meta(nft.MetaOIFName, 1), nft.Eq(1, nft.Name(w.Bridge)...)}
	notOut := []nft.Expr{nft.Meta(nft.MetaOIFName, 1), nft.Ne(1, nft.Name(w.Bridge)...)}
	known := append([]nft.Expr{nft.CT(nft.CTState, 1)}, nft.Has(1, nft.Established|nft.Related)...)
	mapped := append([]nft.Expr{nft.CT(nft.CTStatus, 1)}, nft.Has(1, nft.StatusDNAT)...)
	accept, drop := []nft.Expr{nft.Verdict(nft.Accept)}, []nft.Expr{nft.Verdict(nft.Drop)}

	batch := []*netlink.Message{
		nft.Table(f, n, 0, true),
		// Nobody reaches a container by its own address but over its bridge, and this machine.
		nft.Base(f, n, "direct", "filter", nft.Prerouting, -300, nft.Accept),
		nft.Base(f, n, "forw", "filter", nft.Forward, 0, nft.Accept),
		nft.Base(f, n, "post", "nat", nft.Postrouting, 100, nft.Accept),
		rule("forw", out, known, accept),
		rule("forw", in, out, accept), // bridged frames, where br_netfilter shows them
	}
	// The kernel does so itself until somebody switches route_localnet on.
	batch = append(batch, rule("direct", in, subnet(nft.IP, []byte{127, 0, 0, 0}, 8, false), drop))
	if !w.NoBridge { // else no route leads back, and nothing leaves the bridge
		link := []byte{169, 254, 0, 0} // --link-local-ip: this machine has no route there
		batch = append(batch, rule("direct", in, subnet(nft.IP, link, 16, true), subnet(nft.IP, link, 16, false), accept))
		for _, source := range foreign { // nobody speaks in another's name
			batch = append(batch, rule("direct", in, source, drop))
		}
	}
	if w.NoMetadata {
		for _, to := range [][]byte{{169, 254, 169, 254}, {0xfd, 0, 0x0e, 0xc2, 14: 2, 15: 0x54}} {
			family := byte(nft.IP)
			if len(to) == 16 {
				family = nft.IP6
			}
			batch = append(batch, rule("forw", in, subnet(family, to, 8*len(to), false), []nft.Expr{nft.RejectUnreachable()}))
		}
	}
	if w.NoHost {
		batch = append(batch, nft.Base(f, n, "host", "filter", nft.Input, 0, nft.Accept))
		batch = append(batch, hostClosed(rule, in, known, mapped, accept)...)
	}
	sides := sidesOf(w)
	if w.Internal {
		batch = append(batch, rule("forw", in, drop), rule("forw", out, drop))
	} else {
		for _, s := range sides {
			if s.open {
				batch = append(batch, rule("forw", subnet(s.family, s.ip, s.bits, false), out, accept))
			}
		}
		batch = append(batch, rule("forw", out, mapped, accept),
			rule("forw", out, []nft.Expr{nft.Meta(nft.MetaMark, 1), nft.Eq(1, markPublished&0xff, markPublished>>8, 0, 0)}, accept),
			rule("forw", out, drop))
	}
	for _, s := range sides {
		from, to := subnet(s.family, s.ip, s.bits, true), subnet(s.family, s.ip, s.bits, false)
		if !s.routed && !s.open {
			for _, name := range w.Trusted {
				batch = append(batch, rule("direct", to, []nft.Expr{nft.Meta(nft.MetaIIFName, 1), nft.Eq(1, nft.Name(name)...)}, accept))
			}
			notLo := []nft.Expr{nft.Meta(nft.MetaIIF, 1), nft.Ne(1, 1, 0, 0, 0)}
			batch = append(batch, rule("direct", to, notIn, notLo, drop))
		}
		if !w.Internal && !w.NoMasq && !s.routed {
			batch = append(batch, rule("post", from, notOut, []nft.Expr{nft.Masquerade()}))
		}
	}
	return batch
}

// side is a network's subnet of one family.
type side struct {
	family byte
	ip     []byte // an address in it
	bits   int
	routed bool // no NAT; published ports are reached by the container's address
	open   bool // all of them are
}

func sidesOf(w *wire.Interface) []side {
	var list []side
	if w.IP4 != nil {
		list = append(list, side{nft.IP, w.IP4, w.Bits4, w.Routed4, w.Open4})
	}
	if w.IP6 != nil {
		list = append(list, side{nft.IP6, w.IP6, w.Bits6, w.Routed6, w.Open6})
	}
	return list
}

// hostClosed refuses what is for the host itself, also a port that it publishes.
func hostClosed(rule func(string, ...[]nft.Expr) *netlink.Message, in, known, mapped, accept []nft.Expr) []*netlink.Message {
	reject := []nft.Expr{nft.RejectUnreachable()}
	list := []*netlink.Message{
		rule("forw", in, append([]nft.Expr{nft.CT(nft.CTState, 1)}, nft.Has(1, nft.New)...), mapped, reject),
		rule("host", in, known, accept),
	}
	for _, neighbour := range []byte{135, 136} { // who asks for the gateway's hardware address
		list = append(list, rule("host", in, []nft.Expr{
			nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, 58), nft.Payload(nft.Transport, 0, 1, 1), nft.Eq(1, neighbour),
		}, accept))
	}
	return append(list, rule("host", in, reject))
}

// subnet matches an address of a family in an inet table.
func subnet(family byte, ip []byte, bits int, source bool) []nft.Expr {
	load, prefix := prefixOf(family, ip, bits, source)
	return nft.All([]nft.Expr{nft.Meta(nft.MetaNFProto, 1), nft.Eq(1, family)}, load, []nft.Expr{nft.Eq(1, prefix...)})
}

// prefixOf reads the first bits of a packet's address; prefix is what they are in
// ip's network.
func prefixOf(family byte, ip []byte, bits int, source bool) (load []nft.Expr, prefix []byte) {
	offset := uint32(16)
	if family == nft.IP6 {
		offset = 24
	}
	if source {
		offset -= uint32(len(ip))
	}
	m, v := make([]byte, len(ip)), make([]byte, len(ip))
	for i := range ip {
		n := min(max(bits-8*i, 0), 8)
		m[i] = byte(uint(0xff00) >> n)
		v[i] = ip[i] & m[i]
	}
	return []nft.Expr{nft.Payload(nft.Network, offset, uint32(len(ip)), 1), nft.And(1, m...)}, v
}

// letPass has iptables' own rules, where they are, let the bridge's packets pass:
// an accept of ours does not count there. Docker and ufw drop by default.
func (b *hostBridge) letPass(bridge string) {
	for _, f := range []byte{nft.IP, nft.IP6} {
		for _, chain := range []string{"DOCKER-USER", "FORWARD"} {
			if b.filter.Get(nft.GetChain(f, "filter", chain), func(uint16, []byte) {}) != nil {
				continue // there is no such chain
			}
			comment := string(nft.Comment("cais " + bridge))
			found := 0
			_ = b.filter.Get(nft.GetRules(f, "filter", chain), func(_ uint16, body []byte) { // without an answer there are none
				if len(body) < 4 {
					return
				}
				netlink.Attributes(body[4:], func(typ uint16, v []byte) {
					if typ == 7 && string(v) == comment {
						found++
					}
				})
			})
			if found < 2 {
				_ = b.filter.Batch( // a firewall that we may not change decides for itself
					nft.InsertRule(f, "filter", chain, "cais "+bridge, nft.Meta(nft.MetaIIFName, 1), nft.Eq(1, nft.Name(bridge)...), nft.Verdict(nft.Accept)),
					nft.InsertRule(f, "filter", chain, "cais "+bridge, nft.Meta(nft.MetaOIFName, 1), nft.Eq(1, nft.Name(bridge)...), nft.Verdict(nft.Accept)))
			}
			break
		}
	}
}

// addOnParent makes an interface on a device of the host.
func (b *hostBridge) addOnParent(w *wire.Interface, ns int) error {
	parent := w.Parent
	if parent == "" { // one that leads nowhere, shared by the network
		parent = "dm-" + short(w.Network)
		if err := b.route.Do(netlink.AddDummy(parent)); err != nil && !netlink.Is(err, syscall.EEXIST) {
			return err
		}
	}
	index, err := netlink.Index(parent)
	if err != nil {
		return errs.WithHint(errs.E("find the parent "+parent, errs.NotFound, err), "'ip link' lists the devices of this host.")
	}
	mode, ok := uint32(0), true
	if w.Driver == "macvlan" {
		switch w.Mode {
		case "private":
			mode = 1
		case "vepa":
			mode = 2
		case "", "bridge":
			mode = 4
		case "passthru":
			mode = 8
		default:
			ok = false
		}
	} else {
		switch w.Mode {
		case "", "l2":
		case "l3":
			mode = 1
		case "l3s":
			mode = 2
		default:
			ok = false
		}
	}
	if !ok {
		return errs.New(errs.Invalid, "unknown "+w.Driver+" mode: "+w.Mode)
	}
	err = b.route.Do(netlink.AddOnParent(w.Driver, w.Name, index, mode, w.MAC, w.MTU, ns))
	if netlink.Is(err, syscall.EOPNOTSUPP) {
		return errs.WithHint(errs.E("make the device", errs.Unsupported, err), "The kernel has no "+w.Driver+": load its module.")
	}
	return err
}

// RemoveNetwork removes the bridge and the rules of a network that nobody uses, in
// the calling thread's namespace. A bridge whose name the user chose stays if it was
// there before.
func RemoveNetwork(bridge string, named bool) error {
	b, err := openBridge()
	if err != nil {
		return err
	}
	defer b.close()
	err = b.filter.Batch(nft.DeleteTable(nft.Inet, TableOf(bridge)))
	if netlink.Is(err, syscall.ENOENT) {
		err = nil
	}
	for _, f := range []byte{nft.IP, nft.IP6} {
		b.forbid(f, bridge)
	}
	index, e := netlink.Index(bridge)
	if e != nil {
		return err // it has not come to be
	}
	if named {
		ours := false
		e := b.route.Get(netlink.GetLink(bridge), func(_ uint16, body []byte) { ours = netlink.Alias(body) == ownBridge })
		if e != nil || !ours {
			return errors.Join(err, e)
		}
	}
	return errors.Join(err, b.route.Do(netlink.Delete(index)))
}

// RemoveIdle is RemoveNetwork for the bridge of a store that was deleted, and
// reports whether it is gone. If something is still in the network, it stays.
func RemoveIdle(bridge string) bool {
	c, err := netlink.Dial(netlink.FamilyRoute)
	if err != nil {
		return false
	}
	defer c.Close()
	used := false
	err = c.Get(netlink.GetLink(bridge), func(_ uint16, body []byte) {
		used = len(body) > 10 && body[10]&1 != 0 // IFF_LOWER_UP: a member is up
	})
	return netlink.Is(err, syscall.ENODEV) || err == nil && !used && RemoveNetwork(bridge, false) == nil
}

// forbid takes back what letPass added.
func (b *hostBridge) forbid(f byte, bridge string) {
	comment := string(nft.Comment("cais " + bridge))
	for _, chain := range []string{"DOCKER-USER", "FORWARD"} {
		var gone []*netlink.Message
		_ = b.filter.Get(nft.GetRules(f, "filter", chain), func(_ uint16, body []byte) { // without an answer there are none
			var handle []byte
			ours := false
			if len(body) < 4 {
				return
			}
			netlink.Attributes(body[4:], func(typ uint16, v []byte) {
				if typ == 3 {
					handle = append([]byte(nil), v...)
				}
				ours = ours || typ == 7 && string(v) == comment
			})
			if ours && handle != nil {
				gone = append(gone, nft.DeleteRule(f, "filter", chain, handle))
			}
		})
		if len(gone) > 0 {
			_ = b.filter.Batch(gone...) // they let nothing pass any more
		}
	}
}
