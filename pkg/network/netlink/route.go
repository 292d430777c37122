package netlink

import (
	"os"
	"syscall"
	"unsafe"
)

// Numbers of rtnetlink(7), if_link.h, if_bridge.h, veth.h.
const (
	iflaAddress    = 1
	iflaIfname     = 3
	iflaMTU        = 4
	iflaLink       = 5
	iflaMaster     = 10
	iflaProtinfo   = 12
	iflaLinkinfo   = 18
	iflaNetNSFD    = 28
	iflaAFSpec     = 26
	iflaAlias      = 20
	iflaGSOIPv4Max = 63 // kernels before 6.3 do not know it, and pass over it
	infoKind       = 1
	infoData       = 2
	vethPeer       = 1
	brportState    = 1
	brportIsolated = 33
	brMcastSnoop   = 23
	macvlanMode    = 1
	ipvlanMode     = 1

	create = syscall.NLM_F_CREATE | syscall.NLM_F_EXCL
)

// link begins a message with a struct ifinfomsg.
func link(what string, typ, flags uint16, index int, change, value uint32) *Message {
	return New(what, typ, flags).Raw(0, 0, 0, 0,
		byte(index), byte(index>>8), byte(index>>16), byte(index>>24),
		byte(value), byte(value>>8), byte(value>>16), byte(value>>24),
		byte(change), byte(change>>8), byte(change>>16), byte(change>>24))
}

// Veth describes a pair of virtual Ethernet devices.
type Veth struct {
	Name   string // here
	Master int    // index of the bridge that the end here belongs to; 0: none
	MTU    int

	Peer    string // its other end
	PeerMAC []byte
	PeerNS  int // descriptor of the namespace that it is made in

	MaxIPv4 int // bytes that one IPv4 packet may carry inside the kernel; 0: 64 kB
}

// AddVeth makes a pair, up here and down there.
func AddVeth(v Veth) *Message {
	const up = syscall.IFF_UP
	m := link("add the veth "+v.Name, syscall.RTM_NEWLINK, create, 0, up, up).Text(iflaIfname, v.Name).U32(iflaMTU, uint32(v.MTU))
	if v.Master != 0 {
		m.U32(iflaMaster, uint32(v.Master))
	}
	m.maxIPv4(v.MaxIPv4).Begin(iflaLinkinfo).Text(infoKind, "veth").Begin(infoData).Begin(vethPeer)
	m.Raw(make([]byte, 16)...).Text(iflaIfname, v.Peer).U32(iflaMTU, uint32(v.MTU)).U32(iflaNetNSFD, uint32(v.PeerNS)).maxIPv4(v.MaxIPv4)
	if len(v.PeerMAC) == 6 {
		m.Attr(iflaAddress, v.PeerMAC...)
	}
	return m.End().End().End()
}

func (m *Message) maxIPv4(bytes int) *Message {
	if bytes > 0 {
		m.U32(iflaGSOIPv4Max, uint32(bytes))
	}
	return m
}

// SetMaxIPv4 says how many bytes one IPv4 packet may carry inside the kernel. A bridge
// takes no more than each of its ports does, and without one 64 kB.
func SetMaxIPv4(index, bytes int) *Message {
	return link("change the size of the device's packets", syscall.RTM_NEWLINK, 0, index, 0, 0).maxIPv4(bytes)
}

// AddBridge makes a bridge that is up. It learns which port a multicast group is
// behind from nobody: containers' bridges have no querier.
func AddBridge(name string, mac []byte, mtu int) *Message {
	const up = syscall.IFF_UP
	m := link("add the bridge "+name, syscall.RTM_NEWLINK, create, 0, up, up).Text(iflaIfname, name).U32(iflaMTU, uint32(mtu))
	if len(mac) == 6 {
		m.Attr(iflaAddress, mac...)
	}
	return m.Begin(iflaLinkinfo).Text(infoKind, "bridge").Begin(infoData).Attr(brMcastSnoop, 0).End().End()
}

// SetAlias notes a text with the device of a name.
func SetAlias(name, text string) *Message {
	return link("note whose the device is", syscall.RTM_NEWLINK, 0, 0, 0, 0).Text(iflaIfname, name).Text(iflaAlias, text)
}

// GetLink asks for a device; Alias reads the text from the answer.
func GetLink(name string) *Message {
	return link("find the device "+name, syscall.RTM_GETLINK, 0, 0, 0, 0).Text(iflaIfname, name)
}

// MaxIPv4 returns what [SetMaxIPv4] set, from an answer to [GetLink]; 0: the kernel does
// not know it.
func MaxIPv4(body []byte) int {
	n := 0
	if len(body) < 16 {
		return 0
	}
	Attributes(body[16:], func(typ uint16, v []byte) {
		if typ == iflaGSOIPv4Max && len(v) == 4 {
			n = int(get32(v))
		}
	})
	return n
}

// Alias returns the text that [SetAlias] noted, from an answer to [GetLink].
func Alias(body []byte) string {
	var text string
	if len(body) < 16 {
		return ""
	}
	Attributes(body[16:], func(typ uint16, v []byte) {
		if typ == iflaAlias && len(v) > 0 {
			text = string(v[:len(v)-1])
		}
	})
	return text
}

// AddDummy makes a device that leads nowhere.
func AddDummy(name string) *Message {
	const up = syscall.IFF_UP
	return link("add the device "+name, syscall.RTM_NEWLINK, create, 0, up, up).Text(iflaIfname, name).
		Begin(iflaLinkinfo).Text(infoKind, "dummy").End()
}

// AddOnParent makes a macvlan or ipvlan of the device parent in the namespace ns. mode is
// the kernel's number.
func AddOnParent(kind, name string, parent int, mode uint32, mac []byte, mtu, ns int) *Message {
	m := link("add the "+kind+" "+name, syscall.RTM_NEWLINK, create, 0, 0, 0).Text(iflaIfname, name).
		U32(iflaLink, uint32(parent)).U32(iflaNetNSFD, uint32(ns))
	if mtu > 0 {
		m.U32(iflaMTU, uint32(mtu))
	}
	if len(mac) == 6 && kind == "macvlan" {
		m.Attr(iflaAddress, mac...)
	}
	m.Begin(iflaLinkinfo).Text(infoKind, kind).Begin(infoData)
	if kind == "macvlan" {
		m.U32(macvlanMode, mode)
	} else {
		m.Attr(ipvlanMode, byte(mode), byte(mode>>8))
	}
	return m.End().End()
}

// SetUp brings a device up.
func SetUp(index int) *Message {
	const up = syscall.IFF_UP
	return link("bring the device up", syscall.RTM_NEWLINK, 0, index, up, up)
}

// SetIsolated keeps a bridge's port from the other ports that are isolated.
func SetIsolated(index int) *Message {
	return port("isolate the port of the bridge", index, brportIsolated, 1)
}

// SetSilent lets nothing more through a bridge's port. Unlike removing the
// device it waits for nobody.
func SetSilent(index int) *Message {
	return port("close the port of the bridge", index, brportState, 0) // BR_STATE_DISABLED
}

// port sets one attribute of a bridge's port.
func port(what string, index int, attr uint16, value byte) *Message {
	const afBridge = 7
	m := link(what, syscall.RTM_SETLINK, 0, index, 0, 0)
	m.b[16] = afBridge
	return m.Nest(iflaProtinfo).Attr(attr, value).End()
}

// Delete removes a device.
func Delete(index int) *Message {
	return link("remove the device", syscall.RTM_DELLINK, 0, index, 0, 0)
}

// AddAddress gives a device an address, at once usable.
func AddAddress(index int, ip []byte, bits int) *Message {
	const nodad = 2 // IFA_F_NODAD
	m := New("add the address", syscall.RTM_NEWADDR, create).
		Raw(family(ip), byte(bits), nodad, 0, byte(index), byte(index>>8), byte(index>>16), byte(index>>24))
	m.Attr(syscall.IFA_LOCAL, ip...)
	if len(ip) == 4 {
		m.Attr(syscall.IFA_ADDRESS, ip...)
		if bits < 31 {
			var bc [4]byte
			for i := range bc {
				bc[i] = ip[i] | ^mask(bits, i)
			}
			m.Attr(syscall.IFA_BROADCAST, bc[:]...)
		}
	}
	return m
}

func mask(bits, i int) byte {
	n := min(max(bits-8*i, 0), 8)
	return byte(uint(0xff00) >> n)
}

func family(ip []byte) byte {
	if len(ip) == 16 {
		return syscall.AF_INET6
	}
	return syscall.AF_INET
}

// Route is a line of the main table.
type Route struct {
	Dst     []byte // nil: the default route
	Bits    int
	Gateway []byte
	Index   int
	Family  byte // of a default route; 0: that of Gateway
	Local   bool // what Dst covers is this machine
	Metric  int
	Replace bool
}

// AddRoute adds a route, or replaces the one to the same destination.
func AddRoute(r Route) *Message {
	f := r.Family
	if f == 0 {
		f = family(r.Gateway)
		if r.Dst != nil {
			f = family(r.Dst)
		}
	}
	flags := uint16(syscall.NLM_F_CREATE | syscall.NLM_F_EXCL)
	if r.Replace {
		flags = syscall.NLM_F_CREATE | syscall.NLM_F_REPLACE
	}
	m := route("add the route", syscall.RTM_NEWROUTE, flags, f, r)
	return m
}

// DelRoute removes a route.
func DelRoute(r Route) *Message {
	f := r.Family
	if f == 0 {
		f = family(r.Gateway)
	}
	return route("remove the route", syscall.RTM_DELROUTE, 0, f, r)
}

func route(what string, typ, flags uint16, f byte, r Route) *Message {
	kind, scope := byte(syscall.RTN_UNICAST), byte(syscall.RT_SCOPE_UNIVERSE)
	if r.Local {
		kind, scope = syscall.RTN_LOCAL, syscall.RT_SCOPE_HOST
	} else if r.Gateway == nil && typ == syscall.RTM_NEWROUTE && f == syscall.AF_INET {
		scope = syscall.RT_SCOPE_LINK
	}
	if typ == syscall.RTM_DELROUTE {
		scope = syscall.RT_SCOPE_NOWHERE
		if f == syscall.AF_INET6 {
			scope = 0
		}
	}
	m := New(what, typ, flags).Raw(f, byte(r.Bits), 0, 0, syscall.RT_TABLE_MAIN, syscall.RTPROT_BOOT, scope, kind, 0, 0, 0, 0)
	if r.Dst != nil {
		m.Attr(syscall.RTA_DST, r.Dst...)
	}
	if r.Gateway != nil {
		m.Attr(syscall.RTA_GATEWAY, r.Gateway...)
	}
	if r.Index != 0 {
		m.U32(syscall.RTA_OIF, uint32(r.Index))
	}
	if r.Metric != 0 {
		m.U32(syscall.RTA_PRIORITY, uint32(r.Metric))
	}
	return m
}

// Index returns the number of the device name in the calling thread's namespace.
func Index(name string) (int, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, os.NewSyscallError("socket", err)
	}
	defer func() { _ = syscall.Close(fd) }() // nothing was sent
	return indexOn(fd, name)
}

// indexOn is Index in the namespace of the socket fd.
func indexOn(fd int, name string) (int, error) {
	var req struct {
		name  [16]byte
		index int32
		rest  [20]byte
	}
	copy(req.name[:15], name)
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), 0x8933, uintptr(unsafe.Pointer(&req))) // SIOCGIFINDEX
	if errno != 0 {
		return 0, &Error{What: "find the device " + name, Errno: errno}
	}
	return int(req.index), nil
}
