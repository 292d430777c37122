package plane

import (
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nft"
)

// markPublished is on packets to a published port of a network that is routed.
const markPublished = 0xca15

// mapPorts brings what is published to the container. What a rule cannot do, the
// relay at the port's socket does: connections from the host's loopback, and from
// the other family.
func (p *Plane) mapPorts() error {
	if p.br == nil {
		return nil
	}
	batch, names := p.portTables()
	err := p.br.filter.Batch(batch...)
	if netlink.Is(err, syscall.ENOENT) && !p.br.noPortFIB { // nothing of it was done
		p.br.noPortFIB = true
		for i := range p.net.Ports {
			if w := &p.net.Ports[i]; w.Proto == "sctp" && zero(w.HostIP) { // which no relay speaks
				return errs.WithHint(errs.E("publish SCTP ports at all addresses", errs.Unsupported, err),
					"The kernel needs nft_fib_ipv4 and nft_fib_ipv6. Or publish at one address: '-p IP:PORT:PORT/sctp'.")
			}
		}
		p.note("the kernel's rules do not know this machine's addresses (nft_fib_ipv4, nft_fib_ipv6): " +
			"ports of all addresses are relayed, and clients appear with the gateway's address")
		batch, names = p.portTables()
		err = p.br.filter.Batch(batch...)
	}
	if err != nil {
		return errs.WithHint(errs.E("map the published ports", errs.Unsupported, err),
			"The kernel needs nf_tables with NAT (Linux 5.2). '--network host' works without.")
	}
	p.br.maps = names
	return nil
}

// portTables replace the tables of the ports by others, whose names they return.
func (p *Plane) portTables() (batch []*netlink.Message, names [2]string) {
	for f, family := range []byte{nft.IP, nft.IP6} {
		if was := p.br.maps[f]; was != "" {
			batch = append(batch, nft.DeleteTable(family, was))
		}
		rules := p.portRules(f, family)
		if len(rules) == 0 {
			continue
		}
		n := "cais-" + short(p.ifs[0].w.Endpoint)
		names[f] = n
		batch = append(batch, nft.Table(family, n, nft.Owner, true),
			nft.Base(family, n, "pre", "nat", nft.Prerouting, -100, nft.Accept),
			nft.Base(family, n, "out", "nat", nft.Output, -100, nft.Accept),
			nft.Base(family, n, "routed", "filter", nft.Forward, -10, nft.Accept))
		batch = append(batch, rules...)
	}
	return batch, names
}

// portRules are the port maps of one family.
func (p *Plane) portRules(f int, family byte) []*netlink.Message {
	size, saddr := 4, uint32(12)
	if f == 1 {
		size, saddr = 16, 8
	}
	daddr := saddr + uint32(size)
	var rules []*netlink.Message
	for i := range p.net.Ports {
		w := &p.net.Ports[i]
		if len(w.HostIP) != size || len(w.To) != size || loopback(w.HostIP) || len(p.ifs) == 0 || zero(w.HostIP) && p.br.noPortFIB {
			continue // the relay at the port's socket does it
		}
		n := "cais-" + short(p.ifs[0].w.Endpoint)
		proto := byte(6)
		switch w.Proto {
		case "udp":
			proto = 17
		case "sctp":
			proto = 132
		}
		match := []nft.Expr{nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, proto), nft.Payload(nft.Transport, 2, 2, 1), nft.Eq(1, byte(w.HostPort>>8), byte(w.HostPort))}
		if zero(w.HostIP) {
			match = append(match, nft.FIB(nft.FIBAddrType, nft.FIBDaddr, 1), nft.Eq(1, nft.TypeLocal, 0, 0, 0))
		} else {
			match = append(match, nft.Payload(nft.Network, daddr, uint32(size), 1), nft.Eq(1, w.HostIP...))
		}
		to := []nft.Expr{nft.Set(1, w.To...), nft.Set(2, byte(w.Port>>8), byte(w.Port)), nft.DNAT(family, 1, 2)}
		far := []nft.Expr{nft.Payload(nft.Network, daddr, 1, 1), nft.Ne(1, 127)}
		if f == 1 {
			far = []nft.Expr{nft.Payload(nft.Network, daddr, 16, 1), nft.Ne(1, append(make([]byte, 15), 1)...)}
		}
		// Neighbours, and the container itself, go by way of the relay: the answer to
		// what was mapped would not come back through here.
		var afar []nft.Expr
		for _, o := range p.ifs {
			if o.w.Bridge != "" {
				afar = append(afar, nft.Meta(nft.MetaIIFName, 1), nft.Ne(1, nft.Name(o.w.Bridge)...))
			}
		}
		rules = append(rules,
			nft.Rule(family, n, "pre", nft.All(match, afar, to)...),
			nft.Rule(family, n, "out", nft.All(match, far, to)...),
			nft.Rule(family, n, "routed",
				nft.Payload(nft.Network, daddr, uint32(size), 1), nft.Eq(1, w.To...), nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, proto),
				nft.Payload(nft.Transport, 2, 2, 1), nft.Eq(1, byte(w.Port>>8), byte(w.Port)),
				nft.Set(1, markPublished&0xff, markPublished>>8, 0, 0), nft.SetMeta(nft.MetaMark, 1)))
	}
	return rules
}

// RelaysPorts reports whether the kernel's rules do not know this machine's addresses,
// so that the relay serves ports published at all of them, in the calling thread's
// namespace.
func RelaysPorts() (bool, error) {
	c, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		return false, err
	}
	defer c.Close()
	for _, f := range []byte{nft.IP, nft.IP6} {
		const n = "cais-probe"
		err := c.Batch(nft.Table(f, n, nft.Owner, true), nft.Base(f, n, "pre", "nat", nft.Prerouting, -100, nft.Accept),
			nft.Rule(f, n, "pre", nft.FIB(nft.FIBAddrType, nft.FIBDaddr, 1)), nft.DeleteTable(f, n))
		if netlink.Is(err, syscall.ENOENT) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
	return false, nil
}

func loopback(ip []byte) bool {
	return len(ip) == 4 && ip[0] == 127 || len(ip) == 16 && string(ip) == string(append(make([]byte, 15), 1))
}

func zero(ip []byte) bool {
	for _, b := range ip {
		if b != 0 {
			return false
		}
	}
	return true
}
