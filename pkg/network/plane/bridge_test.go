package plane

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/run/wire"
)

// socket returns a descriptor that a command would have bound.
func socket(t *testing.T, network, address string) (fd, port int) {
	t.Helper()
	var f interface{ Fd() uintptr }
	if strings.HasPrefix(network, "udp") {
		a, err := net.ResolveUDPAddr(network, address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenUDP(network, a)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		port = c.LocalAddr().(*net.UDPAddr).Port
		f, _ = c.File()
	} else {
		a, err := net.ResolveTCPAddr(network, address)
		if err != nil {
			t.Fatal(err)
		}
		c, err := net.ListenTCP(network, a)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		port = c.Addr().(*net.TCPAddr).Port
		f, _ = c.File()
	}
	fd, err := syscall.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.(interface{ Close() error }).Close()
	return fd, port
}

// publish adds ports of all kinds to a net, and returns their sockets.
func publish(t *testing.T, n *wire.Net, port int) []int {
	var held []int
	w := &n.Interfaces[0]
	for _, a := range []struct {
		proto, ip string
		to, or    []byte
	}{{"tcp", "0.0.0.0", w.IP4, w.IP6}, {"tcp", "::", w.IP6, w.IP4}, {"udp", "0.0.0.0", w.IP4, w.IP6}, {"udp", "::", w.IP6, w.IP4}} {
		ip, suffix := net.ParseIP(a.ip), "6"
		if v4 := ip.To4(); v4 != nil {
			ip, suffix = v4, "4"
		}
		fd, _ := socket(t, a.proto+suffix, nettest.Addr(a.ip, port))
		held = append(held, fd)
		n.Ports = append(n.Ports, wire.Port{Proto: a.proto, HostIP: ip, HostPort: port, To: a.to, Or: a.or, Port: 80, Socket: len(held)})
	}
	return held
}

// serve answers TCP and UDP at an address of the box with the client's.
func serve(b *box, address string) {
	l := b.Listen(address)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(c.RemoteAddr().String()))
			c.Close()
		}
	}()
	u := b.ListenUDP(address)
	go func() {
		buf := make([]byte, 70000)
		for {
			n, a, err := u.ReadFromUDP(buf)
			if err != nil {
				return
			}
			_, _ = u.WriteToUDP(append([]byte(a.String()+" "), buf[:n]...), a)
		}
	}()
}

// asks returns what a server says who asks it.
func asks(p interface {
	Dial(network, address string) (net.Conn, error)
}, network, address string) (string, error) {
	c, err := p.Dial(network, address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if network == "udp" {
		if _, err := c.Write([]byte("x")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 200)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	text, _, _ := strings.Cut(string(buf[:n]), " ")
	host, _, _ := net.SplitHostPort(text)
	return host, nil
}

type here struct{}

func (here) Dial(network, address string) (net.Conn, error) {
	return net.DialTimeout(network, address, 3*time.Second)
}

func TestPublishRelay(t *testing.T) { testPublish(t, Relay, "") }

func TestPublishBridge(t *testing.T) { testPublish(t, Bridge, "") }

// TestPublishWithoutFIB: where rules do not know the host's addresses the relay
// serves ports, and speaks as the gateway.
func TestPublishWithoutFIB(t *testing.T) { testPublish(t, Bridge, "fib") }

// TestPublishStack does the same with cais-netstack: asked for, and because the
// kernel cannot relay.
func TestPublishStack(t *testing.T) {
	buildStack(t)
	testPublish(t, Netstack, "")
}

func TestStackInstead(t *testing.T) {
	buildStack(t)
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	n := network(t.TempDir(), 2)
	n.Without = "tproxy"
	n.Program = os.Getenv(stackEnv)
	b := start(t, n)
	c, err := b.Dial("tcp", nettest.Addr(nettest.World4, 7))
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, 5<<20)
	if b.p.net.Engine != Netstack {
		t.Errorf("engine %s", b.p.net.Engine)
	}
}

const stackEnv = "CAIS_TEST_NETSTACK"

// buildStack makes the program, once for the process outside and the one inside.
func buildStack(t *testing.T) {
	t.Helper()
	if os.Getenv(stackEnv) != "" {
		return
	}
	exe := filepath.Join(t.TempDir(), "cais-netstack")
	if out, err := exec.Command("go", "build", "-o", exe, "cais.dev/cais/cmd/cais-netstack").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Setenv(stackEnv, exe)
}

func testPublish(t *testing.T, engine, without string) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	dir := t.TempDir()
	n := network(dir, 2)
	n.Engine, n.Program, n.Without = engine, os.Getenv(stackEnv), without
	b := start(t, n, publish(t, n, 8080)...)
	serve(b, ":80")
	seen4, seen6 := nettest.World4, nettest.World6
	if without != "" {
		seen4, seen6 = "172.31.0.1", "fd31::1"
	}
	other := start(t, func() *wire.Net { n := network(dir, 3); n.Engine, n.Program = engine, os.Getenv(stackEnv); return n }())
	far := network(dir, 4)
	far.Engine, far.Program = engine, os.Getenv(stackEnv)
	w := &far.Interfaces[0]
	w.Bridge, w.IP4, w.Gateway4, w.IP6, w.Gateway6 = "br-2", []byte{172, 30, 0, 4}, []byte{172, 30, 0, 1}, net.ParseIP("fd30::4"), net.ParseIP("fd30::1")
	away := start(t, far)
	if engine == Bridge {
		if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err == nil {
			t.Logf("%s", out)
		}
	}
	for _, tt := range []struct {
		who interface {
			Dial(network, address string) (net.Conn, error)
		}
		name    string
		address string
		want    string // "": anything
	}{
		{world, "the world", nettest.Host4, seen4},
		{world, "the world", nettest.Host6, seen6},
		{here{}, "the host", nettest.Host4, ""},
		{here{}, "the host", nettest.Host6, ""},
		{here{}, "the host's loopback", "127.0.0.1", "172.31.0.1"},
		{here{}, "the host's loopback", "::1", "fd31::1"},
		{other, "a neighbour, by the host", nettest.Host4, ""},
		{b, "itself, by the host", nettest.Host4, ""},
		{away, "another network, by the host", nettest.Host4, ""},
	} {
		for _, network := range []string{"tcp", "udp"} {
			got, err := asks(tt.who, network, nettest.Addr(tt.address, 8080))
			if err != nil || tt.want != "" && got != tt.want {
				t.Errorf("%s at %s %s: %q, %v; want %q", tt.name, network, tt.address, got, err, tt.want)
			}
		}
	}
	// A neighbour, directly.
	if got, err := asks(other, "tcp", "172.31.0.2:80"); err != nil || got != "172.31.0.3" {
		t.Errorf("a neighbour: %q, %v", got, err)
	}
	// Networks never meet, and nobody gets at an address from outside.
	if got, err := asks(away, "tcp", "172.31.0.2:80"); err == nil {
		t.Errorf("another network got through: %q", got)
	}
	routeInto(world)
	if got, err := asks(world, "tcp", "172.31.0.2:80"); err == nil {
		t.Errorf("the world got at the container's address: %q", got)
	}
	// Out to the world.
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	c, err := b.Dial("tcp", nettest.Addr(nettest.World4, 7))
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, 100000)
	if _, err := b.Dial("tcp", nettest.Addr(nettest.World4, 8)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

// TestOtherFamily: a client of one family reaches a server that listens on the other
// one alone; of datagrams not even the first is lost.
func TestOtherFamily(t *testing.T) { testOtherFamily(t, Relay) }

func TestOtherFamilyStack(t *testing.T) {
	buildStack(t)
	testOtherFamily(t, Netstack)
}

func testOtherFamily(t *testing.T, engine string) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	for i, tt := range []struct{ listen, loopback, host, seen string }{
		{"172.31.0.2:80", "::1", nettest.Host6, "172.31.0.1"},
		{"[fd31::3]:80", "127.0.0.1", nettest.Host4, "fd31::1"},
	} {
		n := network(t.TempDir(), byte(2+i))
		n.Engine, n.Program = engine, os.Getenv(stackEnv)
		b := start(t, n, publish(t, n, 8080)...)
		serve(b, tt.listen)
		for range 12 { // a kernel refuses a few datagrams at once, then one a second
			for _, network := range []string{"udp", "tcp"} {
				if got, err := asks(here{}, network, nettest.Addr(tt.loopback, 8080)); err != nil || got != tt.seen {
					t.Errorf("%s at %s, of %s: %q, %v; want %q", network, tt.loopback, tt.listen, got, err, tt.seen)
				}
				if got, err := asks(world, network, nettest.Addr(tt.host, 8080)); err != nil || got != tt.seen {
					t.Errorf("%s at %s, of %s: %q, %v; want %q", network, tt.host, tt.listen, got, err, tt.seen)
				}
			}
		}
		b.stop()
	}
}

// routeInto tells the world the way to the containers' own addresses.
func routeInto(world *nettest.Place) {
	world.Must(func() error {
		i, err := netlink.Index("down0")
		if err != nil {
			return err
		}
		c, err := netlink.Dial(netlink.FamilyRoute)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Do(netlink.AddRoute(netlink.Route{Dst: []byte{172, 31, 0, 0}, Bits: 16, Gateway: net.ParseIP(nettest.Host4).To4(), Index: i}))
	})
}

// greet sends who connects his own address.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = c.Write([]byte(c.RemoteAddr().String()))
		c.Close()
	}
}

// TestGatewayModes is about who reaches a container by its own address, and with
// which address it goes out.
func TestGatewayModes(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	routeInto(world)
	go greet(world.Listen(nettest.Addr(nettest.World4, 9)))
	for i, tt := range []struct {
		name           string
		set            func(*wire.Interface)
		published, all bool // ports that the world reaches
		masked         bool // the world sees the host
	}{
		{"nat", func(*wire.Interface) {}, false, false, true},
		{"routed", func(w *wire.Interface) { w.Routed4 = true }, true, false, false},
		{"routed for IPv6 only", func(w *wire.Interface) { w.Routed6 = true }, false, false, true},
		{"nat-unprotected", func(w *wire.Interface) { w.Open4 = true }, true, true, true},
		{"the device is trusted", func(w *wire.Interface) { w.Trusted = []string{"other0", "up0"} }, true, false, true},
		{"another device is trusted", func(w *wire.Interface) { w.Trusted = []string{"other0"} }, false, false, true},
	} {
		n := network(t.TempDir(), byte(2+i))
		n.Engine = Bridge
		w := &n.Interfaces[0]
		w.Bridge = "br-" + tt.name[:1] + string(rune('0'+i))
		w.IP4, w.Gateway4 = []byte{172, 31, byte(i), 2}, []byte{172, 31, byte(i), 1}
		w.IP6, w.Gateway6, w.Default6 = nil, nil, false
		tt.set(w)
		fd, port := socket(t, "tcp4", "0.0.0.0:0")
		n.Ports = []wire.Port{{Proto: "tcp", HostIP: make([]byte, 4), HostPort: port, To: w.IP4, Port: 80, Socket: 1}}
		b := start(t, n, fd)
		go greet(b.Listen(":80"))
		go greet(b.Listen(":81"))
		own := net.IP(w.IP4).String()
		for port, want := range map[int]bool{80: tt.published, 81: tt.all} {
			if port == 81 && !tt.published {
				continue // what is not reached is waited for
			}
			if _, err := asks(world, "tcp", nettest.Addr(own, port)); (err == nil) != want {
				t.Errorf("%s: the world at %s:%d: %v, want it reached: %v", tt.name, own, port, err, want)
			}
		}
		want := own
		if tt.masked {
			want = nettest.Host4
		}
		seen, err := asks(b, "tcp", nettest.Addr(nettest.World4, 9))
		if err != nil || seen != want {
			t.Errorf("%s: the world sees %q, %v; want %q", tt.name, seen, err, want)
		}
		b.stop()
	}
}

func TestSpoofRelay(t *testing.T) { testSpoof(t, Relay, "") }

func TestSpoofBridge(t *testing.T) { testSpoof(t, Bridge, "") }

func TestSpoofBridgeWithoutFIB(t *testing.T) { testSpoof(t, Bridge, "fib") }

// testSpoof has a container speak with addresses that are not its network's, and
// then with its own.
func testSpoof(t *testing.T, engine, without string) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	n := network(t.TempDir(), 2)
	n.Engine, n.Without = engine, without
	b := start(t, n)
	b.Must(func() error {
		i, err := netlink.Index("eth0")
		if err != nil {
			return err
		}
		c, err := netlink.Dial(netlink.FamilyRoute)
		if err != nil {
			return err
		}
		defer c.Close()
		return c.Do(netlink.AddAddress(i, []byte{10, 77, 1, 1}, 32), netlink.AddAddress(i, net.ParseIP("fd77::1"), 128))
	})
	for _, family := range []struct{ foreign, own, host, world string }{
		{"10.77.1.1", "172.31.0.2", nettest.Host4, nettest.World4},
		{"fd77::1", "fd31::2", nettest.Host6, nettest.World6},
	} {
		u := world.ListenUDP(nettest.Addr(family.world, 9))
		for _, source := range []string{family.foreign, family.own} {
			b.Must(func() error {
				d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
				c, err := d.Dial("udp", nettest.Addr(family.world, 9))
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write([]byte(source))
				return err
			})
		}
		buf := make([]byte, 100)
		_ = u.SetReadDeadline(time.Now().Add(patience))
		k, from, err := u.ReadFromUDP(buf)
		if err != nil || string(buf[:k]) != family.own || from.IP.String() != family.host {
			t.Errorf("the world hears %q from %v first, %v; want what came from the container's own address", buf[:k], from, err)
		}
	}
}
