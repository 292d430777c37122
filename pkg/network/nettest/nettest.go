// Package nettest gives tests network namespaces of their own: one that stands for
// the host, one for the world outside, and containers, with nothing of the
// machine's in reach.
package nettest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
)

const env = "CAIS_TEST_ALONE"

// Alone runs the test again in a process of its own, as root of a user namespace
// of its own with a new network. There it returns true; to the caller outside
// false, when that has ended.
func Alone(t testing.TB) bool {
	t.Helper()
	if os.Getenv(env) != "" {
		return true
	}
	kind := "-test.run=^" + t.Name() + "$"
	if b, ok := t.(*testing.B); ok {
		kind = "-test.bench=^" + b.Name() + "$"
	}
	args := []string{kind, "-test.v", "-test.timeout=8m"}
	if _, ok := t.(*testing.B); ok {
		args = append(args, "-test.run=^$")
	}
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), env+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := out.String()
	switch {
	case err != nil && out.Len() == 0:
		t.Skip("no namespaces here: ", err)
	case err != nil:
		t.Errorf("%v\n%s", err, text)
	case strings.Contains(text, "--- SKIP"):
		t.Skip(text)
	default:
		t.Log(text)
	}
	return false
}

// Place is a namespace with a thread in it.
type Place struct {
	*netns.Thread
	t testing.TB
}

// New makes a namespace with its loopback up.
func New(t testing.TB) *Place {
	t.Helper()
	th, err := netns.Start(-1)
	if err != nil {
		t.Fatal(err)
	}
	p := &Place{th, t}
	p.Must(func() error { return route(netlink.SetUp(1)) })
	return p
}

// FD opens the namespace.
func (p *Place) FD() int {
	fd, err := netns.Open(netns.Path(os.Getpid(), p.TID))
	if err != nil {
		p.t.Fatal(err)
	}
	return fd
}

// In calls f in the namespace.
func (p *Place) In(f func() error) error {
	var err error
	p.Do(func() { err = f() })
	return err
}

// Must is In for what must work.
func (p *Place) Must(f func() error) {
	p.t.Helper()
	if err := p.In(f); err != nil {
		p.t.Fatal(err)
	}
}

// Dial connects from the namespace. The address is in figures.
func (p *Place) Dial(network, address string) (net.Conn, error) {
	var c net.Conn
	err := p.In(func() (err error) {
		c, err = net.DialTimeout(network, address, 2*time.Second)
		return err
	})
	return c, err
}

// Listen listens in the namespace.
func (p *Place) Listen(address string) net.Listener {
	p.t.Helper()
	var l net.Listener
	p.Must(func() (err error) { l, err = net.Listen("tcp", address); return err })
	return l
}

// ListenUDP is Listen for datagrams.
func (p *Place) ListenUDP(address string) *net.UDPConn {
	p.t.Helper()
	var l net.PacketConn
	p.Must(func() (err error) { l, err = net.ListenPacket("udp", address); return err })
	return l.(*net.UDPConn)
}

func route(m ...*netlink.Message) error {
	c, err := netlink.Dial(netlink.FamilyRoute)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Do(m...)
}

// The addresses of the wire between the host and the world outside.
const (
	Host4, World4 = "10.9.0.1", "10.9.0.2"
	Host6, World6 = "fd09::1", "fd09::2"
)

// Wire is World for who has no test: a TestMain.
func Wire() (*Place, error) {
	th, err := netns.Start(-1)
	if err != nil {
		return nil, err
	}
	w := &Place{Thread: th}
	if err := w.In(func() error { return route(netlink.SetUp(1)) }); err != nil {
		return nil, err
	}
	return w, w.wire()
}

// World connects this process's namespace, the host, with one that stands for the
// world outside; the host's default routes lead there.
func World(t testing.TB) *Place {
	t.Helper()
	w := New(t)
	if err := w.wire(); err != nil {
		t.Fatal(err)
	}
	return w
}

// wire connects w with the namespace of the calling thread.
func (p *Place) wire() error {
	ns, err := netns.Open(netns.Path(os.Getpid(), p.TID))
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(ns) }() // a handle
	if err := route(netlink.SetUp(1), netlink.AddVeth(netlink.Veth{Name: "up0", MTU: 1500, Peer: "down0", PeerNS: ns})); err != nil {
		return err
	}
	up := func(name, ip4, ip6, gw4, gw6 string) error {
		i, err := netlink.Index(name)
		if err != nil {
			return err
		}
		m := []*netlink.Message{
			netlink.AddAddress(i, net.ParseIP(ip4).To4(), 24), netlink.AddAddress(i, net.ParseIP(ip6), 64), netlink.SetUp(i),
		}
		if gw4 != "" {
			m = append(m, netlink.AddRoute(netlink.Route{Gateway: net.ParseIP(gw4).To4(), Index: i}), netlink.AddRoute(netlink.Route{Gateway: net.ParseIP(gw6), Index: i}))
		}
		return route(m...)
	}
	if err := p.In(func() error { return up("down0", World4, World6, "", "") }); err != nil {
		return err
	}
	return up("up0", Host4, Host6, World4, World6)
}

// Run runs a program in the namespace and returns what it says.
func (p *Place) Run(name string, args ...string) string {
	p.t.Helper()
	var out []byte
	err := p.In(func() (err error) { out, err = exec.Command(name, args...).CombinedOutput(); return err })
	if err != nil {
		p.t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Addr puts an address and a port together.
func Addr(ip string, port int) string { return net.JoinHostPort(ip, fmt.Sprint(port)) }
