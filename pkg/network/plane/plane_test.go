package plane

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/run/wire"
)

// box is a container without a container: its namespace, and its network.
type box struct {
	*nettest.Place
	t    *testing.T
	l    *loop.Loop
	do   chan func()
	p    *Plane
	net  *wire.Net
	done chan struct{}
}

// network returns the net of container number n.
func network(dir string, n byte) *wire.Net {
	return &wire.Net{
		Engine: Relay, Dir: dir, HostIPs: [][]byte{{169, 254, 1, 2}},
		Interfaces: []wire.Interface{{
			Endpoint: fmt.Sprintf("%02x%062x", n, 0), Name: "eth0", Bridge: "br-1", MAC: []byte{2, 0x42, 172, 31, 0, n},
			IP4: []byte{172, 31, 0, n}, Bits4: 24, Gateway4: []byte{172, 31, 0, 1}, Default4: true,
			IP6: net.ParseIP(fmt.Sprintf("fd31::%d", n)), Bits6: 64, Gateway6: net.ParseIP("fd31::1"), Default6: true,
		}},
	}
}

// start makes a box and runs its loop.
func start(t *testing.T, n *wire.Net, held ...int) *box {
	t.Helper()
	b := &box{Place: nettest.New(t), t: t, do: make(chan func()), net: n, done: make(chan struct{})}
	var err error
	if b.l, err = loop.New(); err != nil {
		t.Fatal(err)
	}
	b.p = New(b.l, nil, func(s string) { t.Log("note: ", s) })
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := b.p.Prepare(n, held)
		if err == nil {
			err = b.p.AttachNS(b.FD())
		}
		failed <- err
		defer close(b.done)
		if err != nil {
			b.p.Close()
			return
		}
		var wake [2]int
		if err := syscall.Pipe(wake[:]); err != nil {
			panic(err)
		}
		for {
			if err := b.l.Turn(20); err != nil {
				panic(err)
			}
			select {
			case f, ok := <-b.do:
				if !ok {
					b.p.Close()
					return
				}
				f()
			default:
			}
		}
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.stop)
	return b
}

func (b *box) stop() {
	if b.do != nil {
		close(b.do)
		<-b.done
		b.do = nil
	}
}

// call calls f on the loop's thread.
func (b *box) call(f func() error) error {
	err := make(chan error)
	b.do <- func() { err <- f() }
	return <-err
}

func echoServer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				panic(err) // a test that goes on would take it for the relay's fault
			}
			return
		}
		go func() {
			defer c.Close()
			_, _ = io.Copy(c, c)
		}()
	}
}

func talk(t *testing.T, c net.Conn, n int) {
	t.Helper()
	defer c.Close()
	want := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(want); err != nil {
			t.Error(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	_ = c.SetDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v; want %d", len(got), err, n)
	}
	wg.Wait()
}

func TestEgress(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	for _, ip := range []string{nettest.World4, nettest.World6} {
		go echoServer(world.Listen(nettest.Addr(ip, 7)))
		u := world.ListenUDP(nettest.Addr(ip, 7))
		go func() {
			b := make([]byte, 70000)
			for {
				n, a, err := u.ReadFromUDP(b)
				if err != nil {
					return
				}
				_, _ = u.WriteToUDP(b[:n], a)
			}
		}()
	}
	b := start(t, network(t.TempDir(), 2))
	if out, err := exec.Command("nft", "-v").Output(); err == nil {
		var rules []byte
		_ = b.call(func() error {
			return b.p.gw.Do(func() (err error) { rules, err = exec.Command("nft", "list", "ruleset").CombinedOutput(); return err })
		})
		t.Logf("%s%s", out, rules)
	}
	for _, ip := range []string{nettest.World4, nettest.World6} {
		for _, n := range []int{1, 5000, 10 << 20} {
			c, err := b.Dial("tcp", nettest.Addr(ip, 7))
			if err != nil {
				t.Fatal(err)
			}
			talk(t, c, n)
		}
		if _, err := b.Dial("tcp", nettest.Addr(ip, 8)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed port: %v", err)
		}
		for _, n := range []int{1, 1400, 20000, 60000} {
			u, err := b.Dial("udp", nettest.Addr(ip, 7))
			if err != nil {
				t.Fatal(err)
			}
			want := bytes.Repeat([]byte("u"), n)
			if _, err := u.Write(want); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 70000)
			_ = u.SetDeadline(time.Now().Add(3 * time.Second))
			m, err := u.Read(got)
			if err != nil || m != n {
				t.Errorf("udp %d: %d, %v", n, m, err)
			}
			u.Close()
		}
		u, err := b.Dial("udp", nettest.Addr(ip, 9))
		if err != nil {
			t.Fatal(err)
		}
		_ = u.SetDeadline(time.Now().Add(3 * time.Second))
		_, _ = u.Write([]byte("x"))
		if _, err := u.Read(make([]byte, 10)); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a closed udp port: %v", err)
		}
	}
	for _, to := range []string{"127.0.0.2:7", "172.31.9.9:7", "240.0.0.1:7"} {
		if c, err := b.Dial("tcp", to); err == nil {
			c.Close()
			t.Errorf("%s is reached", to)
		} else {
			t.Log(to, err)
		}
	}
	// The host, by its name and by the gateway.
	h, err := net.Listen("tcp", "0.0.0.0:77")
	if err != nil {
		t.Fatal(err)
	}
	go echoServer(h)
	only, err := net.Listen("tcp", "127.0.0.1:78")
	if err != nil {
		t.Fatal(err)
	}
	go echoServer(only)
	for _, ip := range []string{"169.254.1.2", "172.31.0.1", nettest.Host4} {
		c, err := b.Dial("tcp", ip+":77")
		if err != nil {
			t.Errorf("%s: %v", ip, err)
			continue
		}
		talk(t, c, 100)
		if _, err := b.Dial("tcp", ip+":78"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the host's loopback by way of %s: %v", ip, err)
		}
	}
}

// A packet between a container and the gateway's kernel may be larger than on a wire,
// but for a container that can have others behind it.
func TestLargePackets(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	nettest.World(t)
	dir := t.TempDir()
	for i, c := range []struct {
		forwards bool
		bridge   int
	}{{false, largeIPv4}, {false, largeIPv4}, {true, smallIPv4}, {false, smallIPv4}} {
		n := network(dir, byte(i+2))
		n.Forwards = c.forwards
		b := start(t, n)
		var device, bridge int
		err := b.call(func() error {
			ask := func(name string, p *int) error {
				return b.p.gw.Route.Get(netlink.GetLink(name), func(_ uint16, body []byte) { *p = netlink.MaxIPv4(body) })
			}
			return errors.Join(ask(b.p.ifs[0].device, &device), ask("br-1", &bridge))
		})
		if err != nil {
			t.Fatal(err)
		}
		if device == 0 {
			t.Skip("the kernel knows no large IPv4 packets")
		}
		if device != largeIPv4 || bridge != c.bridge {
			t.Errorf("container %d: %d bytes on its device and %d on the bridge, want %d and %d", i, device, bridge, largeIPv4, c.bridge)
		}
	}
}
