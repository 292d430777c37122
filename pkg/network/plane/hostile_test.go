package plane

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nettest"
)

// hear returns what the next datagram says.
func hear(t *testing.T, u *net.UDPConn) string {
	t.Helper()
	buf := make([]byte, 100)
	_ = u.SetReadDeadline(time.Now().Add(patience))
	n, err := u.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

// say sends a datagram.
func (b *box) say(to, text string) {
	b.Must(func() error {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte(text))
		return err
	})
}

func TestRouterBridge(t *testing.T) { testRouter(t, Bridge) }

func TestRouterRelay(t *testing.T) { testRouter(t, Relay) }

// testRouter has a container say that it is the router for all of IPv6: neither this
// machine (CVE-2020-13401) nor a neighbour believes it.
func testRouter(t *testing.T, engine string) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	hostile, neighbour := network(t.TempDir(), 2), network(t.TempDir(), 3)
	hostile.Engine, neighbour.Engine, neighbour.Dir = engine, engine, hostile.Dir
	b, other := start(t, hostile), start(t, neighbour)
	b.Must(advertise)
	// Who hears what was said later has heard that, too.
	u := other.ListenUDP(nettest.Addr("fd31::3", 9))
	b.say(nettest.Addr("fd31::3", 9), "after")
	hear(t, u)
	other.Must(unrouted)
	to := nettest.Addr(nettest.World6, 9)
	if engine == Bridge {
		to = nettest.Addr("fd31::1", 9)
		l, err := net.ListenPacket("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		u = l.(*net.UDPConn)
	} else {
		u = world.ListenUDP(to)
	}
	b.say(to, "after")
	hear(t, u)
	if err := unrouted(); err != nil {
		t.Error(err)
	}
}

// advertise sends an advertisement of the prefix fdee::/64 and of a default route, on
// a thread of the container's: RFC 4861, 4.2. The kernel adds the checksum.
func advertise() error {
	i, err := netlink.Index("eth0")
	if err != nil {
		return err
	}
	r, err := netlink.Dial(netlink.FamilyRoute)
	if err != nil {
		return err
	}
	defer r.Close()
	own := &net.IPAddr{IP: net.ParseIP("fe80::bad"), Zone: "eth0"} // the kernel's choice takes a second to be one
	if err := r.Do(netlink.AddAddress(i, own.IP, 64)); err != nil {
		return err
	}
	c, err := net.ListenIP("ip6:ipv6-icmp", own)
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	_ = raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_MULTICAST_HOPS, 255)
	})
	if err != nil {
		return err
	}
	m := []byte{134, 0, 0, 0, 64, 0, 7, 8, 15: 0}
	m = append(m, []byte{3, 4, 64, 0xc0, 0, 0, 14, 16, 0, 0, 14, 16, 16: 0xfd, 17: 0xee, 31: 0}...)
	_, err = c.WriteTo(m, &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: "eth0"})
	return err
}

// unrouted fails if the calling thread's network has a route by an advertisement.
func unrouted() error {
	const addrconf = "0004"
	text, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
	for l := range strings.Lines(string(text)) {
		if f := strings.Fields(l); len(f) > 8 && strings.HasPrefix(f[8], addrconf) || strings.HasPrefix(l, "fdee") {
			return errors.New("a container's word is believed: " + l)
		}
	}
	return err
}

func TestLoopbackBridge(t *testing.T) { testLoopback(t, Bridge) }

func TestLoopbackRelay(t *testing.T) { testLoopback(t, Relay) }

// testLoopback has a container send to the loopback address of this machine, whose
// owner has let packets for it in at any device.
func testLoopback(t *testing.T, engine string) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	n := network(t.TempDir(), 2)
	n.Engine = engine
	b := start(t, n)
	devices, err := os.ReadDir("/proc/sys/net/ipv4/conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		if err := netns.Sysctl("net/ipv4/conf/"+d.Name()+"/route_localnet", "1"); err != nil {
			t.Fatal(err)
		}
	}
	fd, port := socket(t, "udp4", "127.0.0.1:0")
	b.Must(func() error {
		return frame(n.Interfaces[0].Gateway4, n.Interfaces[0].IP4, []byte{127, 0, 0, 1}, uint16(port))
	})
	u := world.ListenUDP(nettest.Addr(nettest.World4, 9))
	b.say(nettest.Addr(nettest.World4, 9), "after") // it comes after the frame
	hear(t, u)
	if _, from, err := syscall.Recvfrom(fd, make([]byte, 10), syscall.MSG_DONTWAIT); err == nil {
		t.Errorf("the loopback hears %v", from)
	}
}

// frame sends an empty datagram to the gateway's hardware, whatever the routes say.
func frame(gateway, from, to []byte, port uint16) error {
	i, err := netlink.Index("eth0")
	if err != nil {
		return err
	}
	p := []byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0}
	p = append(append(p, from...), to...)
	sum := uint32(0)
	for k := 0; k < len(p); k += 2 {
		sum += uint32(binary.BigEndian.Uint16(p[k:]))
	}
	binary.BigEndian.PutUint16(p[10:], ^uint16(sum+sum>>16))
	p = append(p, 0x10, 0, byte(port>>8), byte(port), 0, 8, 0, 0)
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()                                                         // one datagram
	at := &syscall.SockaddrLinklayer{Protocol: 0x0008, Ifindex: i, Halen: 6, Addr: [8]byte{2, 0x42}} // ETH_P_IP, as it goes
	copy(at.Addr[2:], gateway)
	return syscall.Sendto(fd, p, 0, at)
}
