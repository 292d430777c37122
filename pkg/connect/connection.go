package connect

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
)

// Attachments finds the networks that a request names. It refuses what they
// cannot do, before anything exists.
func (s *Service) Attachments(req plan.Request) ([]plan.Attachment, error) {
	list := slices.Clone(req.Attached())
	if len(list) == 0 {
		return []plan.Attachment{}, nil
	}
	var all []*network.Network
	for i := range list {
		a := &list[i]
		if !plan.UserDefined(a.Network) {
			a.Network, a.ID = network.Bridge, network.BuiltinID(network.Bridge)
			continue
		}
		if all == nil {
			var err error
			if all, err = s.Networks().List(); all == nil {
				return nil, err
			}
		}
		n, err := network.Find(all, a.Network)
		if err != nil {
			return nil, err
		}
		if err := attachable(n, *a); err != nil {
			return nil, err
		}
		a.Network, a.ID = n.Name, n.ID
		for _, other := range list[:i] {
			if other.ID == n.ID {
				return nil, errs.New(errs.Invalid, fmt.Sprintf("network %q is specified multiple times", n.Name))
			}
		}
	}
	return list, nil
}

// attachable refuses what a network can give nobody.
func attachable(n *network.Network, a plan.Attachment) error {
	if n.ConfigOnly {
		return errs.New(errs.Denied, "configuration network "+n.Name+" cannot be used by a container")
	}
	for _, text := range []string{a.IP, a.IP6} {
		ip, err := netip.ParseAddr(text)
		if text == "" || err != nil {
			continue
		}
		p := n.Pool(ip)
		if p == nil || ip.Is6() && !n.IPv6 || ip.Is4() && !n.IPv4 {
			return errs.New(errs.Invalid, "invalid endpoint settings: no configured subnet contains IP address "+text)
		}
	}
	return nil
}

// Connection is a container's network before its monitor has it: addresses are
// held, ports are bound. Abandon gives it up, Close what the monitor has got too.
type Connection struct {
	Net   *wire.Net
	box   network.Sandbox
	held  []*network.Held
	Files []*os.File // what the numbers in Net mean, from 1

	others []network.Bound // ports of other containers; nil: not looked yet
}

func (c *Connection) number(f *os.File) int {
	c.Files = append(c.Files, f)
	return len(c.Files)
}

// Abandon gives everything back: nobody else has it.
func (c *Connection) Abandon() error {
	var err error
	for _, h := range c.held {
		err = errors.Join(err, h.Release())
	}
	c.Close()
	return err
}

// Close closes this process's copies. Of an endpoint's file that is already
// closed it says nothing.
func (c *Connection) Close() {
	for _, f := range c.Files {
		_ = f.Close() // the monitor has another, or nobody needs it
	}
}

// Prepare decides on the network of a container that is about to start: addresses,
// ports, names, and its files in /etc. nil means that it has none of its own.
func (s *Service) Prepare(ctx context.Context, rec *container.Record, settings *container.Settings, hostname string) (c *Connection, err error) {
	req := rec.Request
	if req.SharesNetwork() || req.Network == "none" && len(settings.Networks) == 0 {
		return nil, nil
	}
	list := (&container.Container{Record: rec, Settings: settings}).Networks()
	c = &Connection{box: network.Sandbox{Engine: s.engine()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Abandon())
			c = nil
		}
	}()
	nets, err := s.definitions(ctx, list)
	if err != nil {
		return c, err
	}
	s.restoreRules(ctx, nets)
	old := network.ReadSandbox(s.store.Dir(rec.ID))
	if c.held, err = s.hold(ctx, rec, settings.Name, hostname, list, nets, old); err != nil {
		return c, err
	}
	for _, h := range c.held {
		c.box.Endpoints = append(c.box.Endpoints, h.Endpoint)
	}
	if err := s.describe(c, rec, list, nets); err != nil {
		return c, err
	}
	if err := s.publish(c, rec, nets); err != nil {
		return c, explain(err)
	}
	if err := s.etcNetwork(rec, nets, &c.box, hostname); err != nil {
		return c, err
	}
	return c, network.WriteSandbox(s.store.Dir(rec.ID), &c.box)
}

// definitions reads the networks of a container.
func (s *Service) definitions(ctx context.Context, list []plan.Attachment) ([]*network.Network, error) {
	nets := make([]*network.Network, len(list))
	for i, a := range list {
		var err error
		if a.Network == network.Bridge || a.ID == network.BuiltinID(network.Bridge) {
			nets[i], err = s.Networks().Ready(ctx)
		} else {
			nets[i], err = s.Networks().Get(a.ID)
		}
		if err != nil {
			return nil, err
		}
	}
	return nets, nil
}

// hold gives the container its addresses.
func (s *Service) hold(ctx context.Context, rec *container.Record, name, hostname string, list []plan.Attachment, nets []*network.Network, old *network.Sandbox) ([]*network.Held, error) {
	var ask []network.Attach
	taken := map[string]bool{}
	for _, a := range list {
		taken[interfaceName(a)] = true
	}
	next := 0
	for i, a := range list {
		n := nets[i]
		o, _, err := network.ReadOptions(n)
		if err != nil {
			return nil, err
		}
		e := network.Endpoint{Container: rec.ID, Name: name, Names: names(rec.ID, name, hostname, n, a), Interface: interfaceName(a)}
		for ; e.Interface == ""; next++ {
			if try := o.IfPrefix + fmt.Sprint(next); !taken[try] {
				e.Interface = try
			}
		}
		want := network.Wanted{No6: rec.Request.Sysctls[noIPv6] == "1"}
		want.IP, _ = netip.ParseAddr(a.IP) // checked before, or empty
		want.IP6, _ = netip.ParseAddr(a.IP6)
		if e := old.Endpoint(n.ID); e != nil {
			want.Last, want.Last6 = e.IP, e.IP6
		}
		ask = append(ask, network.Attach{Network: n, Endpoint: e, Want: want, MAC: a.MAC})
	}
	return s.Networks().Hold(ctx, ask)
}

// interfaceName is the name that the user wants for an interface; empty: any.
func interfaceName(a plan.Attachment) string {
	if a.Interface != "" {
		return a.Interface
	}
	return a.DriverOpts[network.OptEndpointIfname]
}

// names are those under which others on the network find the container; none on
// the default network.
func names(id, name, hostname string, n *network.Network, a plan.Attachment) []string {
	if !n.Named() {
		return nil
	}
	var list []string
	for _, s := range slices.Concat([]string{name}, a.Aliases, []string{container.ShortID(id), hostname}) {
		if s != "" && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// describe makes what the monitor is told, but for ports.
func (s *Service) describe(c *Connection, rec *container.Record, list []plan.Attachment, nets []*network.Network) error {
	c.Net = &wire.Net{Engine: s.engine(), Dir: s.Networks().RunDir(), Without: s.env(withoutEnv), Program: netstack(), Forwards: rec.Request.Administers()}
	var candidates []network.Candidate
	ipv6 := false
	for i, n := range nets {
		o, _, err := network.ReadOptions(n)
		if err != nil {
			return err
		}
		e := c.box.Endpoints[i]
		w, err := interfaceOf(n, o, e, list[i])
		if err != nil {
			return err
		}
		ipv6 = ipv6 || e.IP6.IsValid()
		for _, h := range c.held {
			if h.ID == e.ID {
				w.Held = c.number(h.File)
			}
		}
		c.Net.NoHost = c.Net.NoHost || o.NoHost
		c.Net.HostLoopback = c.Net.HostLoopback || o.HostLoopback
		c.Net.Interfaces = append(c.Net.Interfaces, w)
		c.Net.StartEvents = append(c.Net.StartEvents, head("connect", rec.ID, n))
		c.Net.EndEvents = append(c.Net.EndEvents, head("disconnect", rec.ID, n))
		candidates = append(candidates, network.Candidate{
			Name: n.Name, Priority: list[i].GwPriority, Internal: n.Internal, Gateway: e.Gateway, Gateway6: e.Gateway6,
		})
	}
	v4, v6 := network.Elect(candidates)
	if v4 >= 0 {
		c.Net.Interfaces[v4].Default4 = true
	}
	if v6 >= 0 {
		c.Net.Interfaces[v6].Default6 = true
	}
	if c.Net.Engine != engineBridge {
		for _, text := range []string{hostIP, hostIP6} {
			c.Net.HostIPs = append(c.Net.HostIPs, netip.MustParseAddr(text).AsSlice())
		}
	}
	c.Net.Sysctls = ownSysctls(rec.Request.Sysctls, c.Net.Engine, ipv6)
	if s.ownNames(rec, nets) {
		config := s.nameConfig(rec, list, nets)
		c.Net.Names = wire.Names{On: true, Config: config.Marshal()}
	}
	return nil
}

// Settings of the kernel's for a network namespace.
const (
	noIPv6      = "net.ipv6.conf.all.disable_ipv6"
	noIPv6Later = "net.ipv6.conf.default.disable_ipv6" // of devices that come later
	loopback6   = "net.ipv6.conf.lo.disable_ipv6=0"    // all is for the loopback, too, and programs expect ::1
	congestion  = "net.ipv4.tcp_congestion_control"
)

// ownSysctls are the settings that a container's network wants and that its user
// does not make himself.
func ownSysctls(user map[string]string, engine string, ipv6 bool) []string {
	var list []string
	if _, own := user[noIPv6]; !own {
		if ipv6 {
			list = append(list, noIPv6+"=0", noIPv6Later+"=0")
		} else { // programs do not ask for addresses that they cannot reach
			list = append(list, noIPv6+"=1", noIPv6Later+"=1", loopback6)
		}
	}
	if _, own := user[congestion]; !own && engine != engineBridge {
		list = append(list, congestion+"=reno") // see gateway: each connection ends at the next device
	}
	return list
}

// interfaceOf is an endpoint as the monitor is told.
func interfaceOf(n *network.Network, o network.Options, e network.Endpoint, a plan.Attachment) (wire.Interface, error) {
	w := wire.Interface{
		Endpoint: e.ID, Network: n.ID, Name: e.Interface, Driver: n.Driver, Bridge: bridgeName(n, o), Parent: o.Parent, Mode: o.Mode,
		MTU: o.MTU, IP4: bytesOf(e.IP), IP6: bytesOf(e.IP6), Bits4: e.Bits, Bits6: e.Bits6,
		Gateway4: bytesOf(e.Gateway), Gateway6: bytesOf(e.Gateway6), Internal: n.Internal, Isolated: o.NoICC, NoMasq: o.NoMasq,
		NoBridge: o.Inhibit4 || o.Mode4 == "isolated", Routed4: o.Mode4 == "routed", Routed6: o.Mode6 == "routed",
		Open4: o.Mode4 == "nat-unprotected", Open6: o.Mode6 == "nat-unprotected", Trusted: o.Trusted,
		Named: o.BridgeName != "", NoHost: o.NoHost, NoMetadata: o.NoMetadata,
	}
	for kv := range strings.SplitSeq(a.DriverOpts[network.OptEndpointSysctls], ",") {
		if kv = strings.TrimSpace(kv); kv == "" {
			continue
		}
		key, _, valued := strings.Cut(kv, "=")
		if !valued || !strings.HasPrefix(key, "net.") || !strings.Contains(key, ".IFNAME.") || strings.Contains(key, "..") || strings.ContainsAny(key, "/\x00") {
			return w, errs.New(errs.Invalid, fmt.Sprintf("unable to parse sysctl %q: it is net.X.Y.IFNAME.Z=VALUE", kv))
		}
		w.Sysctls = append(w.Sysctls, kv)
	}
	for _, r := range n.Routes {
		w.Routes = append(w.Routes, wire.Route{Dst: r.Dst.Addr().AsSlice(), Bits: r.Dst.Bits(), Gateway: r.Gateway.AsSlice(), Metric: r.Metric})
	}
	for _, text := range a.LinkLocal {
		if ip, err := netip.ParseAddr(text); err == nil {
			w.LinkLocal = append(w.LinkLocal, ip.AsSlice())
		}
	}
	mac, err := parseMAC(e.MAC)
	w.MAC = mac
	return w, err
}

func bytesOf(a netip.Addr) []byte {
	if !a.IsValid() {
		return nil
	}
	return a.AsSlice()
}

func parseMAC(text string) ([]byte, error) {
	var m [6]byte
	_, err := fmt.Sscanf(text, "%02x:%02x:%02x:%02x:%02x:%02x", &m[0], &m[1], &m[2], &m[3], &m[4], &m[5])
	if err != nil {
		return nil, errs.New(errs.Invalid, text+" is not a valid mac address")
	}
	return m[:], nil
}

// bridgeName is the name of a network's bridge.
func bridgeName(n *network.Network, o network.Options) string {
	switch {
	case n.Driver != network.DriverBridge:
		return ""
	case o.BridgeName != "":
		return o.BridgeName
	case n.Device != "":
		return n.Device
	case n.Name == network.Bridge:
		return "cais0"
	}
	return "br-" + container.ShortID(n.ID)
}
