package relay

import (
	"net/netip"
	"testing"

	"cais.dev/cais/pkg/network/sock"
)

// TestTarget asks for what a container may not reach: the host's loopback by any
// name, what is nobody's, and what its network leaves out.
func TestTarget(t *testing.T) {
	at := func(text string) sock.Addr { return sock.At(netip.MustParseAddr(text).AsSlice(), 80) }
	plain := &Source{IP: []byte{172, 31, 0, 2}, Gateway: []byte{172, 31, 0, 1}}
	internal := &Source{IP: []byte{172, 30, 0, 2}, Gateway: []byte{172, 30, 0, 1}, Internal: true}
	noMetadata := &Source{IP: []byte{172, 29, 0, 2}, Gateway: []byte{172, 29, 0, 1}, NoMetadata: true}
	r := New(Config{HostIPs: [][]byte{{169, 254, 1, 2}}})
	r.sources = []*Source{plain, internal, noMetadata}
	closed := New(Config{HostIPs: r.c.HostIPs, NoHost: true})
	closed.sources = r.sources
	for _, tt := range []struct {
		r    *Relay
		from *Source
		to   string
		want bool
	}{
		{r, plain, "192.0.2.1", true},
		{r, plain, "2001:db8::1", true},
		{r, plain, "127.0.0.1", false},
		{r, plain, "127.255.255.254", false},
		{r, plain, "0.0.0.0", false},
		{r, plain, "0.1.2.3", false},
		{r, plain, "224.0.0.1", false},
		{r, plain, "255.255.255.255", false},
		{r, plain, "::", false},
		{r, plain, "::1", false},
		{r, plain, "::ffff:127.0.0.1", false},
		{r, plain, "::ffff:192.0.2.1", false},
		{r, plain, "fe80::1", false},
		{r, plain, "febf::1", false},
		{r, plain, "ff02::1", false},
		{r, plain, "169.254.169.254", true},
		{r, noMetadata, "169.254.169.254", false},
		{r, noMetadata, "fd00:ec2::254", false},
		{r, noMetadata, "192.0.2.1", true},
		{r, internal, "192.0.2.1", false},
		{r, internal, "172.31.0.1", false},
		{closed, plain, "172.31.0.1", false},
		{closed, plain, "172.30.0.1", false},
		{closed, plain, "169.254.1.2", false},
		{closed, plain, "192.0.2.1", true},
	} {
		to, ok := tt.r.target(tt.from, at(tt.to))
		if ok != tt.want || ok && (to.Loopback() || to.Port != 80) {
			t.Errorf("from %v to %s: %s, %v; want %v", tt.from.IP, tt.to, to, ok, tt.want)
		}
	}
}
