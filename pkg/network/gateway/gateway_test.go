package gateway

import (
	"os"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/nettest"
)

func TestFeatures(t *testing.T) {
	for _, f := range []Features{{}, {IP6: true}, {IP6: true, Queue: true}, {Compat: true}} {
		if got := parseFeatures(f.String()); got != f {
			t.Errorf("%+v became %+v", f, got)
		}
	}
	if contains("nfqueue", "queue") || !contains("a,queue\n", "queue") {
		t.Error("contains")
	}
}

func where(t *testing.T, g *Gateway) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(netns.Path(os.Getpid(), g.Thread.TID), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// TestWithoutIPv6: the kernel relays one family, and says which.
func TestWithoutIPv6(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	dir := t.TempDir() + "/net"
	g, err := Open(dir, "ipv6")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	if text, err := os.ReadFile(dir + "/gw/features"); err != nil || contains(string(text), "ipv6") || g.Has.IP6 {
		t.Errorf("%q, %v", text, err)
	}
}

// TestFound: the second finds the first's, and goes on when that has left.
func TestFound(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	dir := t.TempDir() + "/net"
	a, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if where(t, a) != where(t, b) || a.Has != b.Has || !a.made || b.made {
		t.Errorf("%+v and %+v", a, b)
	}
	first := where(t, a)
	a.Close()
	c, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if where(t, c) != first {
		t.Error("the namespace went with the one who made it")
	}
	b.Close()
	c.Close()
	// An entry of the dead is not followed.
	if err := os.WriteFile(dir+"/gw/1-1", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir, "queue,nfqueue")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := os.Stat(dir + "/gw/1-1"); err == nil {
		t.Error("an entry of the dead is left")
	}
	if !d.made || d.Has.Queue || d.Has.Compat {
		t.Errorf("%+v", d)
	}
	fds, err := d.Sockets(0, 3)
	if err != nil || len(fds) != 3 {
		t.Errorf("%v, %v", fds, err)
	}
}

// TestInherited sets up a namespace whose settings came from a host that forwards
// and paces, as a host of containers does.
func TestInherited(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	th, err := netns.Start(-1)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gateway{Thread: th, held: -1}
	defer g.Close()
	const forward, congestion = "net/ipv4/ip_forward", "net/ipv4/tcp_congestion_control"
	if err := g.Do(func() error {
		_ = netns.Sysctl(congestion, "bbr") // not every kernel has it
		return netns.Sysctl(forward, "1")
	}); err != nil {
		t.Fatal(err)
	}
	if err := g.Do(g.dial); err != nil {
		t.Fatal(err)
	}
	if err := g.setUp(""); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{forward: "0\n", congestion: "reno\n"} {
		var got []byte
		if err := g.Do(func() (err error) { got, err = os.ReadFile("/proc/sys/" + key); return err }); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", key, got, err, want)
		}
	}
}
