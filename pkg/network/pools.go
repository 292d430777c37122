package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// hostView is what a new subnet must not hide from containers.
type hostView struct {
	Routes  []netip.Prefix // of this machine, in all its tables, but the default ones
	Wide    []netip.Prefix // those that cover many pools
	Servers []netip.Addr   // its name servers
}

// readHost reads this machine's routes and name servers. What cannot be read is
// left out: it is advice, not a condition.
func readHost() hostView {
	var h hostView
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs { // of devices that are down, too, which have no routes
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			h.add(p)
		}
	}
	var to netip.Addr
	eachLine("/proc/net/fib_trie", func(f []string) { // /proc/net/route is of the main table alone
		if len(f) == 2 && f[0] == "|--" {
			to, _ = netip.ParseAddr(f[1])
		}
		if len(f) < 3 || f[2] == "THROW" { // this table says nothing about it
			return
		}
		if bits, ok := strings.CutPrefix(f[0], "/"); ok {
			if n, err := strconv.Atoi(bits); err == nil {
				h.add(netip.PrefixFrom(to, n))
			}
		}
	})
	eachRoute6(h.add)
	eachLine("/etc/resolv.conf", func(f []string) {
		if len(f) >= 2 && f[0] == "nameserver" {
			if a, err := netip.ParseAddr(f[1]); err == nil {
				h.Servers = append(h.Servers, a.WithZone(""))
			}
		}
	})
	return h
}

// add notes a route. The halves of the address space that a VPN puts over the
// default route say no more than that one.
func (h *hostView) add(p netip.Prefix) {
	switch {
	case p.Bits() >= 16:
		h.Routes = append(h.Routes, p.Masked())
	case p.Bits() > 1:
		h.Wide = append(h.Wide, p.Masked())
	}
}

// eachRoute6 calls do with this machine's IPv6 routes that lead somewhere.
func eachRoute6(do func(netip.Prefix)) {
	eachLine("/proc/net/ipv6_route", func(f []string) {
		if len(f) < 10 {
			return
		}
		addr, e1 := hex.DecodeString(f[0])
		bits, e2 := strconv.ParseUint(f[1], 16, 8)
		if e1 != nil || e2 != nil || len(addr) != 16 || f[9] == "lo" {
			return
		}
		do(netip.PrefixFrom(netip.AddrFrom16([16]byte(addr)), int(bits)))
	})
}

// reaches6 reports whether this machine has an IPv6 default route, or one that stands
// for it: the halves of a VPN's, 2000::/3.
func reaches6() bool {
	found := false
	eachRoute6(func(p netip.Prefix) { found = found || p.Bits() <= 3 })
	return found
}

func eachLine(path string, do func(fields []string)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		do(strings.Fields(s.Text()))
	}
}

// hides reports whether a network with subnet p would hide something of the host.
func (h hostView) hides(p netip.Prefix) bool {
	return overlaps(h.Routes, p) || slices.ContainsFunc(h.Servers, p.Contains)
}

// defaultPools are Docker's, in its order.
func defaultPools() []netip.Prefix {
	var all []netip.Prefix
	for i := 17; i <= 31; i++ {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(i), 0, 0}), 16))
	}
	for i := 0; i < 256; i += 16 {
		all = append(all, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(i), 0}), 20))
	}
	return all
}

// free4 returns the first default pool that neither the host nor a network uses.
// Where wide routes, such as a VPN's for all private addresses, leave none, it is the
// first of which nothing narrower is known.
func free4(h hostView, taken []netip.Prefix) (netip.Prefix, error) {
	for _, wide := range [][]netip.Prefix{h.Wide, nil} {
		for _, p := range defaultPools() {
			if !h.hides(p) && !overlaps(wide, p) && !overlaps(taken, p) {
				return p, nil
			}
		}
	}
	err := errs.New(errs.Conflict, "all predefined address pools have been fully subnetted")
	return netip.Prefix{}, errs.WithHint(err, "Name one that is free with --subnet, or remove networks that nobody uses with 'cais network prune'.")
}

// free6 returns a random /64 of ula that nobody uses.
func free6(ula netip.Prefix, h hostView, taken []netip.Prefix) (netip.Prefix, error) {
	for range 1000 {
		a := ula.Addr().As16()
		binary.BigEndian.PutUint16(a[6:], uint16(rand.Uint32()))
		p := netip.PrefixFrom(netip.AddrFrom16(a), 64)
		if !h.hides(p) && !overlaps(taken, p) {
			return p, nil
		}
	}
	return netip.Prefix{}, errs.New(errs.Conflict, "could not find an available, non-overlapping IPv6 address pool among the defaults to assign to the network")
}

// newULA returns a random unique local /48: RFC 4193.
func newULA() netip.Prefix {
	var a [16]byte
	a[0] = 0xfd
	binary.BigEndian.PutUint32(a[1:], rand.Uint32())
	a[5] = byte(rand.Uint32())
	return netip.PrefixFrom(netip.AddrFrom16(a), 48)
}

func overlaps(taken []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(taken, p.Overlaps)
}

// subnets are all subnets of the networks.
func subnets(all []*Network) []netip.Prefix {
	var out []netip.Prefix
	for _, n := range all {
		if n.ConfigOnly || n.Driver == DriverMacvlan || n.Driver == DriverIPvlan {
			continue // no network, or on the one that it names
		}
		for _, p := range n.Pools {
			out = append(out, p.Subnet)
		}
	}
	return out
}
