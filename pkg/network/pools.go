package network

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// HostView is what a new subnet must not hide from containers.
type HostView struct {
	Routes  []netip.Prefix // of this machine, but the default ones
	Servers []netip.Addr   // its name servers
	IPv6    bool           // it has an IPv6 default route
}

// ReadHost reads this machine's routes and name servers. What cannot be read is
// left out: it is advice, not a condition.
func ReadHost() HostView {
	var h HostView
	eachLine("/proc/net/route", func(f []string) {
		if len(f) < 8 || f[0] == "Iface" {
			return
		}
		addr, e1 := hex.DecodeString(f[1])
		mask, e2 := hex.DecodeString(f[7])
		if e1 != nil || e2 != nil || len(addr) != 4 || len(mask) != 4 {
			return
		}
		bits := 0
		for m := binary.LittleEndian.Uint32(mask); m != 0; m &= m - 1 {
			bits++
		}
		h.add(netip.PrefixFrom(netip.AddrFrom4([4]byte{addr[3], addr[2], addr[1], addr[0]}), bits))
	})
	eachLine("/proc/net/ipv6_route", func(f []string) {
		if len(f) < 10 {
			return
		}
		addr, e1 := hex.DecodeString(f[0])
		bits, e2 := strconv.ParseUint(f[1], 16, 8)
		if e1 != nil || e2 != nil || len(addr) != 16 || f[9] == "lo" {
			return
		}
		if bits == 0 {
			h.IPv6 = true
		}
		h.add(netip.PrefixFrom(netip.AddrFrom16([16]byte(addr)), int(bits)))
	})
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
func (h *HostView) add(p netip.Prefix) {
	if p.Bits() > 1 {
		h.Routes = append(h.Routes, p.Masked())
	}
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
func (h HostView) hides(p netip.Prefix) bool {
	for _, r := range h.Routes {
		if r.Overlaps(p) {
			return true
		}
	}
	for _, s := range h.Servers {
		if p.Contains(s) {
			return true
		}
	}
	return false
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
func free4(h HostView, taken []netip.Prefix) (netip.Prefix, error) {
	for _, p := range defaultPools() {
		if !h.hides(p) && !overlaps(taken, p) {
			return p, nil
		}
	}
	err := errs.New(errs.Conflict, "all predefined address pools have been fully subnetted")
	return netip.Prefix{}, errs.WithHint(err, "Name one that is free with --subnet, or remove networks that nobody uses with 'cais network prune'.")
}

// free6 returns a random /64 of ula that nobody uses.
func free6(ula netip.Prefix, h HostView, taken []netip.Prefix) (netip.Prefix, error) {
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
	for _, t := range taken {
		if t.Overlaps(p) {
			return true
		}
	}
	return false
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
