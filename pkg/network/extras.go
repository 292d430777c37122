package network

import (
	"context"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What Podman's networks have beside Docker's: no names, name servers, routes.

// Route is one that every container of a network gets.
type Route struct {
	Dst     netip.Prefix `json:"dst"`
	Gateway netip.Addr   `json:"gateway"`
	Metric  int          `json:"metric,omitempty"`
}

// Named reports whether containers of n find each other by name.
func (n *Network) Named() bool { return n.Name != Bridge && !n.NoNames }

// extras reads what Podman's flags ask. The subnets are known.
func (n *Network) extras(r CreateRequest) (err error) {
	n.NoNames = r.NoNames
	if n.NoNames && len(r.Servers) > 0 {
		return invalid("cannot set DNS servers of a network that has no DNS")
	}
	if n.Servers, err = parseServers(r.Servers); err != nil {
		return err
	}
	for _, text := range r.Routes {
		route, err := parseRoute(text)
		if err != nil {
			return err
		}
		if p := n.Pool(route.Gateway); p == nil || p.Subnet.Addr().Is4() != route.Dst.Addr().Is4() {
			return invalid("invalid route %q: its gateway is in no subnet of the network", text)
		}
		n.Routes = append(n.Routes, route)
	}
	return nil
}

func parseServers(list []string) ([]netip.Addr, error) {
	var servers []netip.Addr
	for _, text := range list {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" {
			return nil, invalid("unable to parse ip %s", text)
		}
		servers = append(servers, a.Unmap())
	}
	return servers, nil
}

// parseRoute reads SUBNET,GATEWAY[,METRIC].
func parseRoute(text string) (r Route, err error) {
	f := strings.Split(text, ",")
	if len(f) != 2 && len(f) != 3 {
		return r, invalid("invalid route %q: it is SUBNET,GATEWAY[,METRIC]", text)
	}
	if r.Dst, err = netip.ParsePrefix(f[0]); err != nil || r.Dst != r.Dst.Masked() {
		return r, invalid("invalid route %q: %s is no subnet", text, f[0])
	}
	if r.Gateway, err = netip.ParseAddr(f[1]); err != nil || r.Gateway.Zone() != "" {
		return r, invalid("invalid route %q: %s is no address of a gateway", text, f[1])
	}
	if len(f) == 3 {
		metric, err := strconv.ParseUint(f[2], 10, 31)
		if err != nil {
			return r, invalid("invalid route %q: %s is no metric", text, f[2])
		}
		r.Metric = int(metric)
	}
	return r, nil
}

// SetServers adds name servers to a network, and takes some away.
func (s Store) SetServers(ctx context.Context, ref string, add, drop []string) (*Network, error) {
	more, err := parseServers(add)
	if err != nil {
		return nil, err
	}
	less, err := parseServers(drop)
	if err != nil {
		return nil, err
	}
	l, err := s.Lock(ctx)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	n, err := s.Find(ref)
	if err != nil {
		return nil, err
	}
	if !n.Named() || n.Builtin() {
		return n, invalid("unable to change the DNS servers of network %s: it has no DNS", n.Name)
	}
	n.Servers = slices.DeleteFunc(n.Servers, func(a netip.Addr) bool { return slices.Contains(less, a) })
	for _, a := range more {
		if !slices.Contains(n.Servers, a) {
			n.Servers = append(n.Servers, a)
		}
	}
	return n, s.write(n)
}
