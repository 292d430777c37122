package relay

import (
	"slices"
	"syscall"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/sock"
)

// ownAddress returns the address by which this thread's machine is seen: that of
// its default route, or the first that is not its loopback; nil if there is none.
func ownAddress(v6 bool) []byte {
	far := sock.At([]byte{192, 0, 2, 1}, 9) // nothing is sent to it
	if v6 {
		far = sock.At([]byte{0x20, 0x01, 0x0d, 0xb8, 15: 1}, 9)
	}
	fd, err := sock.Open(sock.KindOf(&far, true))
	if err != nil {
		return nil
	}
	defer func() { _ = syscall.Close(fd) }() // nothing was sent
	if sock.Connect(fd, &far) == nil {
		if a := sock.Name(fd); !a.Loopback() {
			return slices.Clone(a.Bytes())
		}
	}
	return firstAddress(v6)
}

// firstAddress returns the first global address of the thread's namespace.
func firstAddress(v6 bool) []byte {
	c, err := netlink.Dial(netlink.FamilyRoute)
	if err != nil {
		return nil
	}
	defer c.Close()
	family := byte(syscall.AF_INET)
	if v6 {
		family = syscall.AF_INET6
	}
	var found []byte
	m := netlink.New("list the addresses", syscall.RTM_GETADDR, syscall.NLM_F_DUMP).Raw(family, 0, 0, 0, 0, 0, 0, 0)
	_ = c.Get(m, func(_ uint16, body []byte) { // without an answer there is no address
		if len(body) < 8 || body[3] != syscall.RT_SCOPE_UNIVERSE || found != nil {
			return
		}
		netlink.Attributes(body[8:], func(typ uint16, v []byte) {
			if typ == syscall.IFA_LOCAL || typ == syscall.IFA_ADDRESS && v6 {
				found = slices.Clone(v)
			}
		})
	})
	return found
}
