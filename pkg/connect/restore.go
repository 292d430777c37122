package connect

import (
	"context"
	"slices"

	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// restoreRules makes the rules of root's other networks anew if those of nets are
// missing: a firewall that was loaded again (nft flush ruleset) has taken all of them.
// The monitor makes those of nets, and says what the kernel lacks; what iptables'
// legacy rules drop is let pass here.
func (s *Service) restoreRules(nets []*network.Network) {
	if s.engine() != engineBridge {
		return
	}
	var own []string
	for _, n := range nets {
		if o, _, err := network.ReadOptions(n); err == nil && n.Driver == network.DriverBridge {
			own = append(own, bridgeName(n, o))
			s.letPass(n, o)
		}
	}
	missing, err := plane.Missing()
	if err != nil || !slices.ContainsFunc(own, missing) {
		return
	}
	others := func(bridge string) bool { return !slices.Contains(own, bridge) && missing(bridge) }
	if err := s.restore(others); err != nil {
		s.log.Warn("the rules of other networks are missing: " + err.Error())
	}
}

// Reload makes the rules of root's networks anew, also those that iptables'
// own chains want, after a firewall was loaded again. The networks of a user have
// none that a firewall could take away.
func (s *Service) Reload(_ context.Context, refs []string) error {
	for _, ref := range refs {
		if _, err := s.store.Find(ref); err != nil {
			return err
		}
	}
	if s.engine() != engineBridge {
		return nil
	}
	return s.restore(func(string) bool { return true })
}

// restore makes the rules of the networks whose bridges are wanted.
func (s *Service) restore(want func(bridge string) bool) error {
	all, _ := s.nets().List() // those that can be read
	var lost []wire.Interface
	for _, n := range all {
		o, _, err := network.ReadOptions(n)
		if err != nil || n.Driver != network.DriverBridge || n.ConfigOnly {
			continue
		}
		if !want(bridgeName(n, o)) {
			continue
		}
		e := network.Endpoint{MAC: network.MACText([6]byte{})}
		if p := n.Pool4(); p != nil && n.IPv4 {
			e.IP, e.Bits = p.Subnet.Addr(), p.Subnet.Bits() // the rules have the subnet alone
		}
		if p := n.Pool6(); p != nil && n.IPv6 {
			e.IP6, e.Bits6 = p.Subnet.Addr(), p.Subnet.Bits()
		}
		w, err := interfaceOf(n, o, e, plan.Attachment{})
		if err == nil {
			s.letPass(n, o)
			lost = append(lost, w)
		}
	}
	return plane.Restore(lost)
}
