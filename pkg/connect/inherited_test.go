package connect

import (
	"net"
	"net/netip"
	"testing"
)

// TestInherited has sockets that systemd could have passed on found by what they are
// bound to.
func TestInherited(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	port := l.Addr().(*net.TCPAddr).Port
	list := inheritedFrom(int(f.Fd()), 1)
	if len(list) != 1 || list[0].proto != "tcp" || list[0].both {
		t.Fatalf("%+v", list)
	}
	local := netip.MustParseAddr("127.0.0.1")
	got, covered, err := passed(list, "tcp", local, port)
	if err != nil || got == nil || covered {
		t.Fatal(got, covered, err)
	}
	defer got.Close()
	for _, tt := range []struct {
		proto string
		host  netip.Addr
		port  int
	}{{"udp", local, port}, {"tcp", netip.IPv4Unspecified(), port}, {"tcp", local, port + 1}, {"tcp", local, 0}} {
		if f, _, _ := passed(list, tt.proto, tt.host, tt.port); f != nil {
			t.Errorf("%+v is another one", tt)
		}
	}
	both := []inherited{{fd: int(f.Fd()), proto: "tcp", at: netip.AddrPortFrom(netip.IPv6Unspecified(), 80), both: true}}
	if f, covered, err := passed(both, "tcp", netip.IPv4Unspecified(), 80); f != nil || !covered || err != nil {
		t.Error(f, covered, err)
	}
}
