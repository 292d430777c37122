package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/network/loop"
)

// ask encodes a question.
func ask(id uint16, name string, typ uint16) []byte {
	b := []byte{byte(id >> 8), byte(id), flagRD, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	b = append(b, encodeName(name)...)
	return append(b, byte(typ>>8), byte(typ), 0, classIN)
}

func TestParse(t *testing.T) {
	p := ask(7, "WEB.Net", typeA)
	q, ok := parse(p)
	if !ok || q.id != 7 || q.name != "web.net" || q.typ != typeA || q.end != len(p) || q.size != 512 {
		t.Errorf("%v %+v", ok, q)
	}
	edns := append(append([]byte(nil), p...), 0, 0, typeOPT, 0x10, 0, 0, 0, 0, 0, 0, 0)
	edns[11] = 1
	if q, ok := parse(edns); !ok || q.size != 4096 {
		t.Errorf("%v %+v", ok, q)
	}
	for n := range p {
		if _, ok := parse(p[:n]); ok {
			t.Errorf("cut at %d it is read", n)
		}
	}
	dotted := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3}, "a.b\x00\x00\x01\x00\x01"...)
	if q, ok := parse(dotted); !ok || q.name == "a.b" {
		t.Errorf("a dot within a label: %v %q", ok, q.name)
	}
	pointer := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}, 0xc0, 12, 0, 1, 0, 1)
	if _, ok := parse(pointer); ok {
		t.Error("a pointer is followed")
	}
}

func TestReverse(t *testing.T) {
	for name, want := range map[string]string{
		"2.0.17.172.in-addr.arpa":                        "172.17.0.2",
		"0.17.172.in-addr.arpa":                          "",
		"1.2.0.17.172.in-addr.arpa":                      "",
		"256.0.17.172.in-addr.arpa":                      "",
		"x.0.17.172.in-addr.arpa":                        "",
		"in-addr.arpa":                                   "",
		strings.Repeat("0.", 31) + "1.ip6.arpa":          "1000::",
		"1." + strings.Repeat("0.", 29) + "d.f.ip6.arpa": "fd00::1",
		strings.Repeat("0.", 31) + "g.ip6.arpa":          "",
	} {
		got := ""
		if ip := reverse(name); ip != nil {
			a, _ := netip.AddrFromSlice(ip)
			got = a.String()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func FuzzParseIP(f *testing.F) {
	for _, s := range []string{"1.2.3.4", "::", "fd00::1", "1::2::3", "::ffff:1.2.3.4", "1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7::", "01.2.3.4"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := netip.ParseAddr(s)
		got := parseIP(s)
		if err == nil && want.Zone() == "" {
			a, ok := netip.AddrFromSlice(got)
			if !ok || a != want {
				t.Errorf("%q: %v, want %v", s, got, want)
			}
		}
	})
}

func FuzzMessage(f *testing.F) {
	f.Add(ask(1, "web", typeA))
	f.Add(ask(1, "2.0.17.172.in-addr.arpa", typePTR))
	f.Fuzz(func(t *testing.T, p []byte) {
		q, ok := parse(p)
		if !ok {
			return
		}
		if q.end > len(p) || len(q.name) > maxName {
			t.Fatalf("%+v", q)
		}
		out := q.answer(p, codeOK, [][]byte{record(typeA, []byte{1, 2, 3, 4})})
		if back, ok := parse(append([]byte{out[0], out[1], 0, 0}, out[4:]...)); !ok || back.name != q.name {
			t.Fatalf("%q became %q", q.name, back.name)
		}
		_ = cut(out, &q)
		_ = reverse(q.name)
		s := Server{z: zone{config: Config{Networks: []Network{{"n", "net"}}}, hosts: []host{{network: "n", names: []string{"web"}}}}}
		_ = s.z.lookup(q.name)
	})
}

func FuzzHost(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":"x","network":"n","container":"c","name":"web","names":["web","a\u003cb"],"interface":"eth0","ip":"172.17.0.2","bits":16,"ip6":"fd00::2","mac":"x"}`))
	f.Add([]byte(`{"names":null,"x":{"a":[1,{"b":[]}]}}`))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var h host
		h.parse(b)
		_ = nameservers(b)
		_, _ = Unmarshal(b)
	})
}

// world is a directory of endpoints and a server of this machine's.
type world struct {
	t     *testing.T
	dir   string
	c     Config
	s     *Server
	l     *loop.Loop
	stop  chan struct{}
	done  sync.WaitGroup
	addr  string
	files []*os.File
	do    chan func()
}

func (w *world) endpoint(container, network, name, ip string, names ...string) *os.File {
	w.t.Helper()
	text := fmt.Sprintf(`{"v":1,"id":"e","network":%q,"networkName":"n","container":%q,"name":%q,"names":["%s"],"interface":"eth0","ip":%q,"bits":16}`,
		network, container, name, strings.Join(append([]string{name}, names...), `","`), ip)
	f, err := os.Create(filepath.Join(w.dir, container+"-"+network+".json"))
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.files = append(w.files, f)
	return f
}

// start serves on a port of the loopback.
func (w *world) start() {
	w.t.Helper()
	var fds [2]int
	var port int
	for i, kind := range []int{syscall.SOCK_DGRAM, syscall.SOCK_STREAM} {
		fd, err := syscall.Socket(syscall.AF_INET, kind|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			w.t.Fatal(err)
		}
		if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: port}); err != nil {
			w.t.Fatal(err)
		}
		sa, err := syscall.Getsockname(fd)
		if err != nil {
			w.t.Fatal(err)
		}
		port = sa.(*syscall.SockaddrInet4).Port
		fds[i] = fd
	}
	if err := syscall.Listen(fds[1], 16); err != nil {
		w.t.Fatal(err)
	}
	w.addr = fmt.Sprintf("127.0.0.1:%d", port)
	var err error
	if w.l, err = loop.New(); err != nil {
		w.t.Fatal(err)
	}
	w.s = New(w.l, func(f func() error) error { return f() }, func(s string) { w.t.Log(s) })
	if err := w.s.Start(fds[0], fds[1], w.c.Marshal()); err != nil {
		w.t.Fatal(err)
	}
	w.stop, w.do = make(chan struct{}), make(chan func(), 1)
	w.done.Go(func() {
		for {
			select {
			case <-w.stop:
				w.s.Stop()
				w.l.Destroy()
				return
			case f := <-w.do:
				f()
			default:
				_ = w.l.Turn(5)
			}
		}
	})
	w.t.Cleanup(func() {
		close(w.stop)
		w.done.Wait()
		for _, f := range w.files {
			_ = f.Close()
		}
	})
}

// query asks and returns the code and the addresses.
func (w *world) query(network, name string, typ uint16) string {
	w.t.Helper()
	c, err := net.Dial(network, w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(8 * time.Second))
	p := ask(4711, name, typ)
	if network == "tcp" {
		p = append([]byte{byte(len(p) >> 8), byte(len(p))}, p...)
	}
	if _, err := c.Write(p); err != nil {
		w.t.Fatal(err)
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return err.Error()
	}
	b = b[:n]
	if network == "tcp" {
		b = b[2:]
	}
	if u16(b) != 4711 {
		return "another id"
	}
	out := fmt.Sprint("code ", b[3]&15)
	at := headerLen + len(encodeName(name)) + 4
	for range u16(b[6:]) {
		size := int(u16(b[at+10:]))
		data := b[at+12 : at+12+size]
		switch u16(b[at+2:]) {
		case typeA:
			out += " " + net.IP(data).String()
		case typePTR:
			_, text, _ := readName(data, 0)
			out += " " + text
		}
		at += 12 + size
	}
	return out
}

// fake is a server elsewhere.
func fake(t *testing.T, answer func(p []byte) []byte) (port int) {
	t.Helper()
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", u.LocalAddr().String())
	if err != nil {
		t.Skip(err) // the port is taken
	}
	t.Cleanup(func() { _, _ = u.Close(), l.Close() })
	go func() {
		b := make([]byte, 4096)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			if out := answer(b[:n]); out != nil {
				_, _ = u.WriteTo(out, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 4096)
			n, _ := c.Read(b)
			if n > 2 {
				out := answer(b[2:n])
				_, _ = c.Write(append([]byte{byte(len(out) >> 8), byte(len(out))}, out...))
			}
			_ = c.Close()
		}
	}()
	return u.LocalAddr().(*net.UDPAddr).Port
}

func TestServer(t *testing.T) {
	w := &world{t: t, dir: t.TempDir()}
	web := strings.Repeat("a", 64)
	first := w.endpoint(web, "n1", "web", "172.18.0.2", "www", "aaaaaaaaaaaa")
	w.endpoint(strings.Repeat("b", 64), "n1", "db", "172.18.0.3", "www")
	w.endpoint(strings.Repeat("c", 64), "n2", "other", "172.19.0.2")
	w.endpoint(strings.Repeat("d", 64), "n3", "foreign", "172.20.0.2")
	w.c = Config{Dir: w.dir, Networks: []Network{{"n1", "front"}, {"n2", "back.end"}}, Links: []Link{{"Store", "db"}}, NoForward: true}
	w.start()
	for _, tt := range []struct {
		name string
		typ  uint16
		want string
	}{
		{"web", typeA, "code 0 172.18.0.2"},
		{"WEB", typeA, "code 0 172.18.0.2"},
		{"aaaaaaaaaaaa", typeA, "code 0 172.18.0.2"},
		{"web.front", typeA, "code 0 172.18.0.2"},
		{"web.back.end", typeA, "code 2"},
		{"other.back.end", typeA, "code 0 172.19.0.2"},
		{"store", typeA, "code 0 172.18.0.3"},
		{"foreign", typeA, "code 2"},
		{"web", typeAAAA, "code 0"},
		{"web", 15, "code 0"}, // MX
		{"2.0.18.172.in-addr.arpa", typePTR, "code 0 web.front"},
		{"9.0.18.172.in-addr.arpa", typePTR, "code 2"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if got := w.query(network, tt.name, tt.typ); got != tt.want {
				t.Errorf("%s %s %d: %s, want %s", network, tt.name, tt.typ, got, tt.want)
			}
		}
	}
	both := map[string]bool{}
	for range 4 {
		both[w.query("udp", "www", typeA)] = true
	}
	if !both["code 0 172.18.0.2 172.18.0.3"] || !both["code 0 172.18.0.3 172.18.0.2"] {
		t.Errorf("two holders of a name: %v", both)
	}
	// One that was killed: its file stays and its lock is free.
	_ = first.Close()
	if got := w.query("udp", "web", typeA); got != "code 2" {
		t.Errorf("a dead endpoint: %s", got)
	}
	w.endpoint(strings.Repeat("e", 64), "n1", "new", "172.18.0.9")
	if got := w.query("udp", "new", typeA); got != "code 0 172.18.0.9" {
		t.Errorf("a new endpoint: %s", got)
	}
}

func TestForward(t *testing.T) {
	bad := fake(t, func(p []byte) []byte { q, _ := parse(p); return q.answer(p, codeRefused, nil) })
	silent := fake(t, func([]byte) []byte { return nil })
	good := fake(t, func(p []byte) []byte {
		q, _ := parse(p)
		return q.answer(p, codeOK, [][]byte{record(typeA, []byte{9, 9, 9, 9})})
	})
	for name, ports := range map[string][]int{"first": {good}, "refused": {bad, good}, "silent": {silent, good}, "nobody": {1, good}} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, dir: t.TempDir(), c: Config{Resolv: "/nonexistent", NoSingle: true}}
			w.start()
			ready := make(chan struct{})
			w.do <- func() {
				for _, p := range ports {
					a := nameservers([]byte("nameserver 127.0.0.1\n"))[0]
					w.s.up.servers = append(w.s.up.servers, a.With(uint16(p)))
				}
				close(ready)
			}
			<-ready
			if got := w.query("udp", "example.org", typeA); got != "code 0 9.9.9.9" {
				t.Error(got)
			}
			if got := w.query("udp", "single", typeA); got != "code 3" {
				t.Error(got)
			}
			if name != "silent" { // which takes its time
				if got := w.query("tcp", "example.org", typeA); got != "code 0 9.9.9.9" {
					t.Error(got)
				}
			}
			begin := time.Now()
			if got := w.query("udp", "example.org", typeA); got != "code 0 9.9.9.9" || time.Since(begin) > time.Second {
				t.Errorf("%s after %s: who answered is not asked first", got, time.Since(begin))
			}
		})
	}
	t.Run("all refuse", func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), c: Config{Resolv: "/nonexistent"}}
		w.start()
		ready := make(chan struct{})
		w.do <- func() {
			a := nameservers([]byte("nameserver 127.0.0.1\n"))[0]
			w.s.up.servers = append(w.s.up.servers, a.With(1), a.With(2))
			close(ready)
		}
		<-ready
		for _, network := range []string{"udp", "tcp"} {
			if got := w.query(network, "example.org", typeA); got != "code 2" {
				t.Error(network, got)
			}
		}
	})
	t.Run("none", func(t *testing.T) {
		w := &world{t: t, dir: t.TempDir(), c: Config{Resolv: "/nonexistent"}}
		w.start()
		if got := w.query("udp", "example.org", typeA); got != "code 2" {
			t.Error(got)
		}
	})
}

// A hostile client: no answer, or an error, and never a crash.
func TestHostile(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), c: Config{Resolv: "/nonexistent"}}
	w.start()
	c, err := net.Dial("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n := range 40 {
		_, _ = c.Write(make([]byte, n))
		b := ask(1, strings.Repeat("a.", 100)+"b", 255)
		_, _ = c.Write(b[:min(len(b), 7*n)])
	}
	for range 3 {
		s, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = s.Write([]byte{0, 1, 0, 0xff, 0xff, 1, 2, 3})
		_ = s.Close()
	}
	if got := w.query("udp", "x", typeA); got != "code 2" {
		t.Error(got)
	}
}

func TestNameservers(t *testing.T) {
	got := nameservers([]byte("# x\nnameserver 1.2.3.4\r\n  nameserver\t::1 # y\nnameserver fe80::1%eth0\nnameserver foo\noptions x"))
	if len(got) != 2 || got[0].Port != 53 || !got[1].V6 {
		t.Errorf("%v", got)
	}
}
