package connect

import (
	"bytes"
	"context"
	"encoding/binary"
	"maps"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nft"
	"cais.dev/cais/pkg/network/plane"
)

// letPass has this machine's other firewalls let the packets of a network pass
// that containers are to be started in: an accept of ours does not count there. It
// reports whether one had forgotten the network. (Rules of nftables in iptables'
// chains are the monitor's.)
func (s *Service) letPass(ctx context.Context, n *network.Network, o network.Options, bridge string) (lost bool) {
	if n.Internal {
		return false
	}
	lost, err := s.passFirewalld(ctx, bridge, o.BridgeName != "", true)
	s.warn(err)
	s.warn(passLegacy(bridge, true))
	return lost
}

// warn says what a firewall would not do; containers start without.
func (s *Service) warn(err error) {
	if err != nil {
		s.log.Warn(err.Error() + ". " + errs.HintOf(err))
	}
}

// inetTables are the names of nftables' tables of the family inet.
func inetTables() (map[string]bool, error) {
	c, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	there := map[string]bool{}
	err = c.Get(nft.GetTables(nft.Inet), func(_ uint16, body []byte) {
		if len(body) >= 4 {
			netlink.Attributes(body[4:], func(typ uint16, v []byte) {
				if typ == 1 {
					there[text(v)] = true
				}
			})
		}
	})
	return there, err
}

// text is an attribute that ends with NUL.
func text(v []byte) string { return string(bytes.TrimSuffix(v, []byte{0})) }

// Firewalls are those that drop packets of root's bridges, with what to do.
func (s *Service) Firewalls(ctx context.Context) ([]network.Firewall, error) {
	if s.engine() != engineBridge {
		return nil, nil // nothing is forwarded
	}
	open := s.bridges()
	maps.DeleteFunc(open, func(_ string, n *network.Network) bool { return n.Internal })
	bridges := slices.Sorted(maps.Keys(open))
	if len(bridges) == 0 {
		return nil, nil // a start does what there is to do
	}
	list, err := dropping(bridges)
	if err != nil {
		return nil, err
	}
	const reload = "cais network reload --all"
	if closed := slices.DeleteFunc(slices.Clone(bridges), func(b string) bool { return passesLegacy(b) }); len(closed) > 0 {
		list = append(list, network.Firewall{Name: "iptables-legacy", Bridges: closed, Fix: reload})
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	f, err := s.openFirewalld(ctx)
	if err != nil || f == nil {
		return list, err
	}
	defer f.close()
	d := network.Firewall{Name: "firewalld", Fix: reload}
	for _, b := range bridges {
		zone, err := f.zoneOf(b)
		if err != nil {
			return list, err
		}
		if zone == "" {
			d.Bridges = append(d.Bridges, b)
		}
	}
	if len(d.Bridges) > 0 {
		list = append(list, d)
	}
	return list, nil
}

// RelaysPorts reports whether ports of root's containers are relayed, for the kernel
// lacks rules for them.
func (s *Service) RelaysPorts() (bool, error) {
	if s.engine() != engineBridge {
		return false, nil
	}
	if s.env(withoutEnv) == "fib" {
		return true, nil
	}
	return plane.RelaysPorts()
}

// chain is one of nftables' that sees what is forwarded.
type chain struct {
	family      byte
	table, name string
}

// dropping are nftables' chains that drop what no rule of theirs accepts, and have
// no rules for all of the bridges.
func dropping(bridges []string) ([]network.Firewall, error) {
	c, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var chains []chain
	err = c.Get(nft.GetChains(), func(_ uint16, body []byte) {
		if ch, ok := forwardDrop(body); ok {
			chains = append(chains, ch)
		}
	})
	if err != nil {
		return nil, err
	}
	var list []network.Firewall
	for _, ch := range chains {
		f := network.Firewall{Name: "nftables' chain " + ch.String()}
		looked := []chain{ch}
		if ch.table == "filter" && ch.name == "FORWARD" {
			f.Name, f.Fix = map[byte]string{nft.IP: "iptables", nft.IP6: "ip6tables"}[ch.family], "cais network reload --all"
			looked = append(looked, chain{ch.family, ch.table, "DOCKER-USER"})
		}
		for _, b := range bridges {
			if rulesFor(c, looked, b) < 2 { // one for each way
				f.Bridges = append(f.Bridges, b)
			}
		}
		if len(f.Bridges) == 0 {
			continue
		}
		if f.Fix == "" {
			var commands []string
			for _, b := range f.Bridges {
				for _, way := range []string{"iifname", "oifname"} {
					commands = append(commands, "nft insert rule "+ch.String()+" "+way+" "+b+" accept")
				}
			}
			f.Fix = strings.Join(commands, "; ")
		}
		list = append(list, f)
	}
	return list, nil
}

// String is the chain as nft(8) names it.
func (c chain) String() string {
	return map[byte]string{nft.Inet: "inet", nft.IP: "ip", nft.IP6: "ip6"}[c.family] + " " + c.table + " " + c.name
}

// forwardDrop reads the kernel's description of a chain. It reports whether what is
// forwarded is dropped at its end.
func forwardDrop(body []byte) (c chain, drops bool) {
	if len(body) < 4 || body[0] != nft.Inet && body[0] != nft.IP && body[0] != nft.IP6 {
		return c, false
	}
	c.family = body[0]
	hook, policy := uint32(nft.Output), uint32(nft.Accept)
	number := func(v []byte, n *uint32) {
		if len(v) == 4 {
			*n = binary.BigEndian.Uint32(v)
		}
	}
	netlink.Attributes(body[4:], func(typ uint16, v []byte) {
		switch typ {
		case 1:
			c.table = text(v)
		case 3:
			c.name = text(v)
		case 4:
			netlink.Attributes(v, func(typ uint16, v []byte) {
				if typ == 1 {
					number(v, &hook)
				}
			})
		case 5:
			number(v, &policy)
		}
	})
	return c, hook == nft.Forward && policy == nft.Drop
}

// rulesFor counts the rules that name a device.
func rulesFor(c *netlink.Conn, chains []chain, device string) (n int) {
	for _, ch := range chains {
		_ = c.Get(nft.GetRules(ch.family, ch.table, ch.name), func(_ uint16, body []byte) { // without an answer there are none
			if bytes.Contains(body, append([]byte(device), 0)) {
				n++
			}
		})
	}
	return n
}
