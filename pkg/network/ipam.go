package network

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"net/netip"

	"cais.dev/cais/pkg/errs"
)

// Wanted is what an endpoint asks of address management.
type Wanted struct {
	IP, IP6     netip.Addr // given by the user; zero: any
	Last, Last6 netip.Addr // had before: taken again if they are free
	No6         bool       // no IPv6 address, whatever the network has
}

// allocate chooses the addresses of a new endpoint of n. used are those of the
// living ones.
func allocate(n *Network, used map[netip.Addr]bool, w Wanted) (ip4, ip6 netip.Addr, err error) {
	if ip4, err = one(n, n.Pool4(), used, w.IP, w.Last, n.IPv4); err != nil {
		return ip4, ip6, err
	}
	ip6, err = one(n, n.Pool6(), used, w.IP6, w.Last6, n.IPv6 && !w.No6)
	return ip4, ip6, err
}

func one(n *Network, p *Pool, used map[netip.Addr]bool, want, last netip.Addr, on bool) (netip.Addr, error) {
	if want.IsValid() {
		if p == nil || !on || !p.Subnet.Contains(want) {
			return want, errs.New(errs.Invalid, "invalid endpoint settings: no configured subnet contains IP address "+want.String())
		}
		if used[want] || p.reserved(want) {
			return want, errs.New(errs.Conflict, "Address already in use")
		}
		return want, nil
	}
	if p == nil || !on {
		return netip.Addr{}, nil
	}
	from := p.Subnet
	if p.Range.IsValid() {
		from = p.Range
	}
	if last.IsValid() && from.Contains(last) && !used[last] && !p.reserved(last) {
		return last, nil
	}
	// No more addresses are tried than are taken, with those that are reserved.
	a := from.Masked().Addr()
	for range len(used) + len(p.Aux) + 8 {
		if !from.Contains(a) {
			break
		}
		if !used[a] && !p.reserved(a) {
			return a, nil
		}
		a = a.Next()
	}
	return netip.Addr{}, errs.New(errs.Unavailable, fmt.Sprintf("no available IPv%d addresses on this network's address pools: %s (%s)", family(p.Subnet.Addr()), n.Name, n.ID))
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}

// reserved reports whether a is no address to give out: the network's own, its
// broadcast, the gateway, and those that the user has kept back.
func (p *Pool) reserved(a netip.Addr) bool {
	if a == p.Gateway || a == p.Subnet.Masked().Addr() {
		return true
	}
	if a.Is4() && p.Subnet.Bits() < 31 && a == broadcast(p.Subnet) {
		return true
	}
	for _, x := range p.Aux {
		if a == x {
			return true
		}
	}
	return false
}

// broadcast is the last address of an IPv4 subnet.
func broadcast(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	n := binary.BigEndian.Uint32(b[:]) | (1<<(32-p.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}

// firstFree is the lowest address of the pool that could be a gateway.
func (p *Pool) firstFree() (netip.Addr, bool) {
	from := p.Subnet
	if p.Range.IsValid() {
		from = p.Range
	}
	a := from.Masked().Addr()
	for range len(p.Aux) + 4 {
		if !from.Contains(a) {
			break
		}
		if !p.reserved(a) {
			return a, true
		}
		a = a.Next()
	}
	return a, false
}

// MAC returns the hardware address that belongs to an endpoint's address: who
// gets an address that another had has its hardware address too, so no
// neighbour's cache is ever wrong. One without addresses has that of its id.
func MAC(ip4, ip6 netip.Addr, id string) [6]byte {
	m := [6]byte{0x02, 0x42}
	if ip4.IsValid() {
		b := ip4.As4()
		copy(m[2:], b[:])
		return m
	}
	from := []byte(id)
	if ip6.IsValid() {
		b := ip6.As16()
		from = b[:]
	}
	h := fnv.New32a()
	_, _ = h.Write(from) // never fails
	binary.BigEndian.PutUint32(m[2:], h.Sum32())
	m[1] = 0x43
	return m
}

// MACText is a hardware address as it is read and shown.
func MACText(m [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}
