package network

import (
	"net/netip"
	"strings"
)

// Candidate is an endpoint that may be the way out of a container.
type Candidate struct {
	Name     string // of the network
	Priority int    // --gw-priority
	Internal bool
	Gateway  netip.Addr
	Gateway6 netip.Addr
}

// Elect returns the places of those that the default routes of both families go
// through; -1 for none. The highest priority wins, then a network that has both
// families, then the first name.
func Elect(list []Candidate) (v4, v6 int) {
	pick := func(gateway func(Candidate) netip.Addr) int {
		best := -1
		for i, c := range list {
			if c.Internal || !gateway(c).IsValid() {
				continue
			}
			if best < 0 || better(c, list[best]) {
				best = i
			}
		}
		return best
	}
	return pick(func(c Candidate) netip.Addr { return c.Gateway }), pick(func(c Candidate) netip.Addr { return c.Gateway6 })
}

func better(a, b Candidate) bool {
	if a.Priority != b.Priority {
		return a.Priority > b.Priority
	}
	dual := func(c Candidate) bool { return c.Gateway.IsValid() && c.Gateway6.IsValid() }
	if dual(a) != dual(b) {
		return dual(a)
	}
	return strings.Compare(a.Name, b.Name) < 0
}
