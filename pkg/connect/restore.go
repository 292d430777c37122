package connect

import (
	"context"
	"slices"

	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// restoreRules makes the rules of root's other networks anew if those of nets are
// missing: a firewall that was loaded again (nft flush ruleset) has taken all of them.
// The monitor makes those of nets, and says what the kernel lacks; what other
// firewalls drop is let pass here.
func (s *Service) restoreRules(ctx context.Context, nets []*network.Network) {
	if s.engine() != engineBridge {
		return
	}
	there, err := inetTables()
	if err != nil {
		return // the monitor meets the same, and says it
	}
	var own []string
	lost := false
	for _, n := range nets {
		if o, _, err := network.ReadOptions(n); err == nil && n.Driver == network.DriverBridge {
			bridge := bridgeName(n, o)
			own = append(own, bridge)
			lost = s.letPass(ctx, n, o, bridge) || lost || !there[plane.TableOf(bridge)]
		}
	}
	if !lost {
		return
	}
	if err := s.restore(ctx, own); err != nil {
		s.log.Warn("the rules of other networks are missing: " + err.Error())
	}
}

// Reload makes the rules of root's networks anew, also those that other
// firewalls want, after one was loaded again. The networks of a user have
// none that a firewall could take away.
func (s *Service) Reload(ctx context.Context, refs []string) error {
	for _, ref := range refs {
		if _, err := s.store.Find(ref); err != nil {
			return err
		}
	}
	if s.engine() != engineBridge {
		return nil
	}
	return s.restore(ctx, nil)
}

// restore makes the rules of the networks whose bridges are there, but not of those
// on done.
func (s *Service) restore(ctx context.Context, done []string) error {
	var lost []wire.Interface
	for bridge, n := range s.bridges() {
		if slices.Contains(done, bridge) {
			continue
		}
		e := network.Endpoint{MAC: network.MACText([6]byte{})}
		if p := n.Pool4(); p != nil && n.IPv4 {
			e.IP, e.Bits = p.Subnet.Addr(), p.Subnet.Bits() // the rules have the subnet alone
		}
		if p := n.Pool6(); p != nil && n.IPv6 {
			e.IP6, e.Bits6 = p.Subnet.Addr(), p.Subnet.Bits()
		}
		o, _, _ := network.ReadOptions(n) // bridges has read them
		w, err := interfaceOf(n, o, e, plan.Attachment{})
		if err == nil {
			s.letPass(ctx, n, o, bridge)
			lost = append(lost, w)
		}
	}
	return plane.Restore(lost)
}

// bridges are the networks of this store that have one now: a network's first
// container makes it.
func (s *Service) bridges() map[string]*network.Network {
	all, _ := s.Networks().List() // those that can be read
	list := map[string]*network.Network{}
	for _, n := range all {
		o, _, err := network.ReadOptions(n)
		if err != nil || n.Driver != network.DriverBridge || n.ConfigOnly {
			continue
		}
		bridge := bridgeName(n, o)
		if _, err := netlink.Index(bridge); err == nil {
			list[bridge] = n
		}
	}
	return list
}
