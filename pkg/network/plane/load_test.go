package plane

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/network/nft"
	"cais.dev/cais/pkg/network/sock"
)

// Three thousand connections at once, which then idle, lose nothing. Each way is a test,
// and so a process, of its own: all their ends, 12,000, are its descriptors.
func TestBurstOut(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	b := start(t, network(t.TempDir(), 2))
	nothingLost(t, b.Place, nettest.Addr(nettest.World4, 7))
}

func TestBurstIn(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	n := network(t.TempDir(), 2)
	b := start(t, n, publish(t, n, 8080)...)
	go echoServer(b.Listen(":80"))
	nothingLost(t, world, nettest.Addr(nettest.Host4, 8080))
}

func nothingLost(t *testing.T, from *nettest.Place, to string) {
	const n = 3000
	var conns []net.Conn
	var wg sync.WaitGroup
	for _, f := range burst(t, from, to, n) {
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Error(err)
			continue
		}
		conns = append(conns, c)
		wg.Go(func() {
			msg := []byte("hello")
			_, err := c.Write(msg)
			if err == nil {
				_, err = io.ReadFull(c, msg)
			}
			if err != nil || string(msg) != "hello" {
				t.Errorf("lost: %q, %v", msg, err)
			}
		})
	}
	wg.Wait()
	// Those that idle are still there later.
	for i, c := range conns {
		if i%3 == 0 {
			if _, err := c.Write([]byte("again")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Error(err)
			}
		}
		c.Close()
	}
}

// TestLateWorld: more than are asked for at a time, of a server that nobody reaches
// for a while, lose nothing, whether their packets wait in the kernel, or not, or there is
// no room for all of them.
func TestLateWorld(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	for i, queue := range []string{"queue", "short queue", "no queue"} {
		n := network(t.TempDir(), byte(2+i))
		if queue == "no queue" {
			n.Without = "queue,nfqueue"
		}
		b := start(t, n)
		if queue == "short queue" {
			shorten(t)
		}
		filter := func(m ...*netlink.Message) {
			world.Must(func() error {
				c, err := netlink.Dial(netlink.FamilyNetfilter)
				if err != nil {
					return err
				}
				defer c.Close()
				return c.Batch(m...)
			})
		}
		filter(nft.Table(nft.IP, "late", 0, true), nft.Base(nft.IP, "late", "in", "filter", nft.Input, 0, nft.Drop))
		files := begin(t, b.Place, nettest.Addr(nettest.World4, 7), 1200)
		filter(nft.DeleteTable(nft.IP, "late"))
		established(t, files)
		for i, f := range files {
			msg := []byte("hello")
			if _, err := f.Write(msg); err != nil {
				t.Fatalf("%s: connection %d: %v", queue, i, err)
			}
			if _, err := io.ReadFull(f, msg); err != nil || string(msg) != "hello" {
				t.Fatalf("%s: connection %d: %q, %v", queue, i, msg, err)
			}
			f.Close()
		}
		b.stop()
	}
}

// TestAskedTwice: a container that asked again, because its relay was busy, is still
// one client to the server.
func TestAskedTwice(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	l := world.Listen(nettest.Addr(nettest.World4, 7))
	var served atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Add(1)
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	b := start(t, network(t.TempDir(), 2))
	const n = 500
	var files []*os.File
	_ = b.call(func() error { // meanwhile the relay does nothing
		files = begin(t, b.Place, nettest.Addr(nettest.World4, 7), n)
		b.Must(func() error {
			for {
				again, err := counter("TCPSynRetrans")
				if err != nil || again >= n {
					return err
				}
				runtime.Gosched()
			}
		})
		return nil
	})
	established(t, files)
	for i, f := range files {
		msg := []byte("hello")
		if _, err := f.Write(msg); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if _, err := io.ReadFull(f, msg); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
	if got := served.Load(); got != n {
		t.Errorf("the server saw %d connections, want %d", got, n)
	}
}

// counter reads one of TCP's counters of the calling thread's namespace.
func counter(name string) (int, error) {
	b, err := os.ReadFile("/proc/thread-self/net/netstat")
	if err != nil {
		return 0, err
	}
	lines := strings.Split(string(b), "\n")
	i := slices.Index(strings.Fields(lines[0]), name)
	if i < 0 {
		return 0, errors.New("this kernel does not count " + name)
	}
	return strconv.Atoi(strings.Fields(lines[1])[i])
}

// TestUnreachableAtOnce: each of many connections that cannot be is told so.
func TestUnreachableAtOnce(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	nettest.World(t)
	n := network(t.TempDir(), 2)
	n.Interfaces[0].NoMetadata = true
	b := start(t, n)
	for i, f := range begin(t, b.Place, "169.254.169.254:80", 200) {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = f.SetDeadline(time.Now().Add(patience))
		fault := syscall.Errno(0)
		err = raw.Write(func(fd uintptr) bool {
			fault = sock.Fault(int(fd))
			return fault != 0
		})
		if err != nil || fault != syscall.EHOSTUNREACH {
			t.Fatalf("connection %d: %v, %v", i, fault, err)
		}
		f.Close()
	}
}

// shorten gives the packet queue of this process a small buffer.
func shorten(t *testing.T) {
	found := 0
	for fd := range 100 {
		domain, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_DOMAIN)
		protocol, _ := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_PROTOCOL)
		if err == nil && domain == syscall.AF_NETLINK && protocol == netlink.FamilyNetfilter {
			found++
			if err := sock.Option(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 1<<14); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found == 0 {
		t.Fatal("no queue found")
	}
}

// burst begins n connections before it waits for the first.
func burst(t *testing.T, from *nettest.Place, to string, n int) []*os.File {
	t.Helper()
	files := begin(t, from, to, n)
	established(t, files)
	return files
}

// begin does not wait for the connections that it makes.
func begin(t *testing.T, from *nettest.Place, to string, n int) []*os.File {
	t.Helper()
	host, port, _ := net.SplitHostPort(to)
	p, _ := strconv.Atoi(port)
	a := sock.At(net.ParseIP(host).To4(), uint16(p))
	var files []*os.File
	from.Must(func() error {
		for range n {
			fd, err := sock.Open(sock.TCP4)
			if err != nil {
				return err
			}
			if err := sock.Connect(fd, &a); err != nil && err != syscall.EINPROGRESS {
				return err
			}
			files = append(files, os.NewFile(uintptr(fd), "connection"))
		}
		return nil
	})
	return files
}

// patience is for what never comes, however busy the machine is.
const patience = 3 * time.Minute

func established(t *testing.T, files []*os.File) {
	t.Helper()
	for i, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		_ = f.SetDeadline(time.Now().Add(patience))
		err = raw.Write(func(fd uintptr) bool {
			_, err := syscall.Getpeername(int(fd))
			return err == nil || sock.Fault(int(fd)) != 0
		})
		if err != nil {
			t.Fatalf("connection %d of %d: %v", i, len(files), err)
		}
	}
}

// TestEnds: each way a connection can end is told to the other side.
func TestEnds(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	l := world.Listen(nettest.Addr(nettest.World4, 7))
	b := start(t, network(t.TempDir(), 2))
	pair := func() (in, out *net.TCPConn) {
		t.Helper()
		c, err := b.Dial("tcp", nettest.Addr(nettest.World4, 7))
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range []net.Conn{c, s} {
			_ = x.SetDeadline(time.Now().Add(patience))
		}
		return c.(*net.TCPConn), s.(*net.TCPConn)
	}
	for _, outward := range []bool{true, false} {
		name := map[bool]string{true: "out", false: "in"}[outward]
		swap := func() (a, z *net.TCPConn) {
			a, z = pair()
			if !outward {
				a, z = z, a
			}
			return a, z
		}
		// Half a close: the other half goes on.
		a, z := swap()
		_, _ = a.Write([]byte("last word"))
		_ = a.CloseWrite()
		if got, err := io.ReadAll(z); err != nil || string(got) != "last word" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		_, _ = z.Write([]byte("answer"))
		z.Close()
		if got, err := io.ReadAll(a); err != nil || string(got) != "answer" {
			t.Errorf("%s, the other half: %q, %v", name, got, err)
		}
		a.Close()
		// A reset.
		a, z = swap()
		_ = a.SetLinger(0)
		a.Close()
		if _, err := z.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s, a reset: %v", name, err)
		}
		z.Close()
		// Who does not read holds the other up, and nobody else.
		a, z = swap()
		_ = a.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
		sent, err := io.Copy(a, zeros{})
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s, stalled after %d: %v", name, sent, err)
		}
		a2, z2 := swap()
		go func() { _, _ = a2.Write([]byte("x")) }()
		if _, err := z2.Read(make([]byte, 1)); err != nil {
			t.Errorf("%s, beside a stalled one: %v", name, err)
		}
		a2.Close()
		z2.Close()
		_ = a.CloseWrite()
		got, err := io.Copy(io.Discard, z)
		if err != nil || got < sent {
			t.Errorf("%s: %d of %d after a stall, %v", name, got, sent, err)
		}
		a.Close()
		z.Close()
	}
	// What a container says last arrives although it is gone.
	c, s := pair()
	go func() { _, _ = c.Write(make([]byte, 3<<20)); c.Close() }()
	_, _ = s.Read(make([]byte, 1))
	if err := b.call(func() error { b.p.Detach(); return nil }); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, s); err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

// TestWithoutQueue: a kernel without NFQUEUE accepts before it asks.
func TestWithoutQueue(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	n := network(t.TempDir(), 2)
	n.Without = "queue,nfqueue"
	b := start(t, n)
	c, err := b.Dial("tcp", nettest.Addr(nettest.World4, 7))
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, 5000)
	c, err = b.Dial("tcp", nettest.Addr(nettest.World4, 8))
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(patience))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a closed port: %v", err)
	}
}

// TestNoPipes: without pipes of any size worth having, bytes are copied.
func TestNoPipes(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	world := nettest.World(t)
	go echoServer(world.Listen(nettest.Addr(nettest.World4, 7)))
	b := start(t, network(t.TempDir(), 2))
	_ = b.call(func() error { b.p.r.ForbidPipes(); return nil })
	c, err := b.Dial("tcp", nettest.Addr(nettest.World4, 7))
	if err != nil {
		t.Fatal(err)
	}
	talk(t, c, 20<<20)
}

// TestPing: echo requests are asked on the host's side, where it lets us.
func TestPing(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	nettest.World(t)
	b := start(t, network(t.TempDir(), 2))
	// ping returns what is answered.
	ping := func(ip string) string {
		t.Helper()
		kind, m := "ip4:icmp", []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1, 'h', 'e', 'l', 'l', 'o', 0}
		if strings.Contains(ip, ":") {
			kind = "ip6:ipv6-icmp"
			m[0] = 128
		} else {
			var sum uint32
			for i := 0; i < len(m); i += 2 {
				sum += uint32(m[i])<<8 | uint32(m[i+1])
			}
			sum = ^(sum>>16 + sum&0xffff)
			m[2], m[3] = byte(sum>>8), byte(sum)
		}
		c, err := b.Dial(kind, ip)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write(m); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		for {
			got := make([]byte, 2000)
			n, err := c.Read(got)
			var errno syscall.Errno
			if errors.As(err, &errno) {
				return errno.Error() // the kernel has read an error as one of this socket's
			}
			if err != nil {
				return "nothing"
			}
			if m[0] == 8 && n > 20 { // here the header is there
				n = copy(got, got[20:n])
			}
			if n > 8 && (got[0] == 0 || got[0] == 129) && string(got[4:n]) == string(m[4:]) {
				return "answer"
			}
		}
	}
	for _, rule := range []struct {
		allowed string
		want    map[string]string
	}{
		{"", map[string]string{"172.31.0.1": "answer", "fd31::1": "answer", nettest.World4: "no route to host", nettest.World6: "permission denied"}},
		{"0 0", map[string]string{nettest.World4: "answer", nettest.World6: "answer", nettest.Host4: "answer", "10.9.0.77": "nothing"}},
	} {
		if rule.allowed != "" { // new namespaces allow it to nobody
			if err := netns.Sysctl("net/ipv4/ping_group_range", rule.allowed); err != nil {
				t.Fatal(err)
			}
		}
		for ip, want := range rule.want {
			if got := ping(ip); got != want {
				t.Errorf("ping_group_range %q: %s: %s, want %s", rule.allowed, ip, got, want)
			}
		}
	}
}
