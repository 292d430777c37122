package network

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
)

func TestDecide(t *testing.T) {
	have := []*Network{
		{ID: "1", Name: "mine", Driver: "bridge", Pools: []Pool{{Subnet: netip.MustParsePrefix("10.77.0.0/16")}}},
		{ID: "2", Name: Bridge, Driver: "bridge", Pools: []Pool{{Subnet: netip.MustParsePrefix("172.17.0.0/16")}}},
		{ID: "3", Name: "conf", ConfigOnly: true, Options: map[string]string{"com.docker.network.driver.mtu": "1400"}, Pools: []Pool{{Subnet: netip.MustParsePrefix("10.88.0.0/16")}}, IPv4: true},
	}
	h := hostView{Routes: []netip.Prefix{netip.MustParsePrefix("172.18.3.0/24")}, Servers: []netip.Addr{netip.MustParseAddr("172.19.1.1")}}
	ula := netip.MustParsePrefix("fd12:3456:789a::/48")
	sub := func(s ...string) CreateRequest { return CreateRequest{Name: "new", Subnets: s} }
	tests := []struct {
		name string
		r    CreateRequest
		want string // pools and gateways
		err  string
	}{
		{name: "automatic", r: CreateRequest{Name: "new"}, want: "172.20.0.0/16 172.20.0.1"},
		{name: "given", r: sub("10.6.0.0/16"), want: "10.6.0.0/16 10.6.0.1"},
		{name: "IPv6", r: CreateRequest{Name: "new", IPv6: true, NoIPv4: true, Subnets: []string{"fd00:1::/64"}}, want: "fd00:1::/64 fd00:1::1"},
		{name: "both", r: CreateRequest{Name: "new", IPv6: true, Subnets: []string{"fd00:1::/64", "10.6.0.0/16"}}, want: "10.6.0.0/16 10.6.0.1, fd00:1::/64 fd00:1::1"},
		{name: "gateway and range", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Gateways: []string{"10.6.0.9"}, Ranges: []string{"10.6.5.0/24"}, Aux: []string{"a=10.6.5.1"}}, want: "10.6.0.0/16 10.6.0.9"},
		{name: "from a configuration", r: CreateRequest{Name: "new", ConfigFrom: "conf"}, want: "10.88.0.0/16 10.88.0.1"},
		{name: "small", r: sub("10.6.0.0/30"), want: "10.6.0.0/30 10.6.0.1"},

		{name: "name taken", r: CreateRequest{Name: "mine"}, err: "network with name mine already exists"},
		{name: "no name", r: CreateRequest{Name: " "}, err: "invalid network name: name is empty"},
		{name: "predefined", r: CreateRequest{Name: "bridge"}, err: "operation is not permitted on predefined bridge network"},
		{name: "default", r: CreateRequest{Name: "default"}, err: "operation is not permitted on predefined default network"},
		{name: "no subnet", r: sub("foo"), err: "invalid subnet foo: invalid CIDR address: foo"},
		{name: "host bits", r: sub("10.5.0.1/16"), err: "invalid network config: invalid subnet 10.5.0.1/16: it should be 10.5.0.0/16"},
		{name: "overlap", r: sub("10.77.3.0/24"), err: "invalid pool request: Pool overlaps with other one on this address space"},
		{name: "everything", r: sub("0.0.0.0/0"), err: "invalid pool request: Pool overlaps with other one on this address space"},
		{name: "two subnets", r: sub("10.6.0.0/16", "10.7.0.0/16"), err: "bridge driver doesn't support multiple subnets"},
		{name: "two overlapping", r: sub("10.6.0.0/16", "10.6.1.0/24"), err: "multiple overlapping subnet configuration is not supported"},
		{name: "foreign gateway", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Gateways: []string{"10.7.0.1"}}, err: "no matching subnet for gateway 10.7.0.1"},
		{name: "gateway alone", r: CreateRequest{Name: "new", Gateways: []string{"10.7.0.1"}}, err: "every ip-range or gateway must have a corresponding subnet"},
		{name: "foreign range", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Ranges: []string{"10.7.0.0/24"}}, err: "no matching subnet for range 10.7.0.0/24"},
		{name: "bad range", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Ranges: []string{"foo"}}, err: "invalid CIDR address: foo"},
		{name: "foreign aux", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Aux: []string{"a=10.7.0.1"}}, err: "no matching subnet for aux-address 10.7.0.1"},
		{name: "one address", r: sub("10.6.0.0/32"), err: "failed to allocate gateway (): No available addresses on this pool"},
		{name: "gateway is the network", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Gateways: []string{"10.6.0.0"}}, err: "failed to allocate gateway (10.6.0.0): Address already in use"},
		{name: "gateway is the broadcast", r: CreateRequest{Name: "new", Subnets: []string{"10.6.0.0/16"}, Gateways: []string{"10.6.255.255"}}, err: "failed to allocate gateway (10.6.255.255): Address already in use"},
		{name: "driver", r: CreateRequest{Name: "new", Driver: "foo"}, err: `plugin "foo" not found`},
		{name: "host", r: CreateRequest{Name: "new", Driver: "host"}, err: `only one instance of "host" network is allowed`},
		{name: "overlay", r: CreateRequest{Name: "new", Driver: "overlay"}, err: "This node is not a swarm manager."},
		{name: "macvlan without root", r: CreateRequest{Name: "new", Driver: "macvlan", Rootless: true}, err: "a network with driver macvlan needs root"},
		{name: "macvlan mode", r: CreateRequest{Name: "new", Driver: "macvlan", Options: map[string]string{"macvlan_mode": "foo"}}, err: "requested macvlan mode 'foo' is not valid, 'bridge' mode is the macvlan driver default"},
		{name: "ipvlan mode", r: CreateRequest{Name: "new", Driver: "ipvlan", Options: map[string]string{"ipvlan_mode": "foo"}}, err: "requested ipvlan mode 'foo' is not valid, 'l2' mode is the ipvlan driver default"},
		{name: "parent lo", r: CreateRequest{Name: "new", Driver: "macvlan", Options: map[string]string{"parent": "lo"}}, err: "loopback interface is not a valid macvlan parent link"},
		{name: "mtu", r: CreateRequest{Name: "new", Options: map[string]string{OptMTU: "abc"}}, err: `failed to parse com.docker.network.driver.mtu value: abc (strconv.Atoi: parsing "abc": invalid syntax)`},
		{name: "icc", r: CreateRequest{Name: "new", Options: map[string]string{OptICC: "foo"}}, err: `failed to parse com.docker.network.bridge.enable_icc value: foo (strconv.ParseBool: parsing "foo": invalid syntax)`},
		{name: "no family", r: CreateRequest{Name: "new", NoIPv4: true}, err: "IPv4 or IPv6 must be enabled"},
		{name: "configuration missing", r: CreateRequest{Name: "new", ConfigFrom: "nope"}, err: `configuration network "nope" does not exist`},
		{name: "configuration of one", r: CreateRequest{Name: "new", ConfigOnly: true, ConfigFrom: "conf"}, err: "a configuration network cannot depend on another configuration network"},
		{name: "swarm", r: CreateRequest{Name: "new", Scope: "swarm"}, err: "cannot create a swarm scoped network when swarm is not active"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			n, _, err := decide(tt.r, have, h, ula)
			if tt.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), tt.err) {
					t.Fatalf("got %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range n.Pools {
				got = append(got, p.Subnet.String()+" "+p.Gateway.String())
			}
			if s := strings.Join(got, ", "); s != tt.want {
				t.Errorf("got %s, want %s", s, tt.want)
			}
		})
	}
	n, warnings, err := decide(CreateRequest{Name: "open", Rootless: true, Options: map[string]string{
		OptGatewayMode4: "nat-unprotected", OptGatewayMode6: "nat", OptTrusted: "eth0:eth1"}}, have, h, ula)
	if err != nil || len(warnings) != 2 || !strings.Contains(warnings[0], "nat-unprotected has no effect without root") {
		t.Errorf("%v %q %+v", err, warnings, n)
	}
	n, warnings, err = decide(CreateRequest{Name: "new", IPv6: true, Options: map[string]string{"com.docker.network.what": "1", "other": "2"}}, have, h, ula)
	if err != nil || len(warnings) != 1 || !ula.Contains(n.Pool6().Subnet.Addr()) || n.Pool6().Subnet.Bits() != 64 {
		t.Errorf("%v %q %+v", err, warnings, n)
	}
}

// Every pool is given out once, and then the error says what to do.
func TestPoolsRunOut(t *testing.T) {
	var all []*Network
	for i := range 100 {
		n, _, err := decide(CreateRequest{Name: fmt.Sprint("n", i)}, all, hostView{}, netip.Prefix{})
		if err != nil {
			if i != 31 || errs.HintOf(err) == "" {
				t.Errorf("after %d: %v", i, err)
			}
			return
		}
		if overlaps(subnets(all), n.Pools[0].Subnet) {
			t.Errorf("%s overlaps", n.Pools[0].Subnet)
		}
		all = append(all, n)
	}
	t.Error("never run out")
}

// Properties of allocate, over random networks: what it gives is in the range, is
// free, and is never the gateway, the network, the broadcast or kept back; it
// fails only when nothing is left.
func TestAllocate(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		bits := 24 + r.IntN(6)
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(r.IntN(256)), byte(r.IntN(256)), 0}), bits)
		n := &Network{Name: "n", ID: "i", IPv4: true, Pools: []Pool{{Subnet: subnet}}}
		p := &n.Pools[0]
		p.Gateway, _ = p.firstFree()
		if r.IntN(2) == 0 {
			p.Aux = map[string]netip.Addr{"a": p.Gateway.Next()}
		}
		if r.IntN(2) == 0 {
			p.Range = netip.PrefixFrom(subnet.Addr(), bits+1)
		}
		used := map[netip.Addr]bool{}
		for {
			a, _, err := allocate(n, used, Wanted{})
			if err != nil {
				if errs.KindOf(err) != errs.Unavailable {
					t.Fatal(err)
				}
				break
			}
			if used[a] || !subnet.Contains(a) || p.reserved(a) || p.Range.IsValid() && !p.Range.Contains(a) {
				t.Fatalf("%v gave %s", n.Pools, a)
			}
			used[a] = true
		}
		from := subnet
		if p.Range.IsValid() {
			from = p.Range
		}
		left := 0
		for a := from.Addr(); from.Contains(a); a = a.Next() {
			if !used[a] && !p.reserved(a) {
				left++
			}
		}
		if left > 0 {
			t.Errorf("%v: %d addresses are left", n.Pools, left)
		}
	}
}

func TestAllocateWanted(t *testing.T) {
	n := &Network{Name: "n", ID: "i", IPv4: true, IPv6: true, Pools: []Pool{
		{Subnet: netip.MustParsePrefix("10.6.0.0/16"), Gateway: netip.MustParseAddr("10.6.0.1")},
		{Subnet: netip.MustParsePrefix("fd00::/64"), Gateway: netip.MustParseAddr("fd00::1")},
	}}
	at := netip.MustParseAddr
	used := map[netip.Addr]bool{at("10.6.0.2"): true, at("10.6.0.4"): true}
	for _, tt := range []struct {
		w    Wanted
		want string
	}{
		{Wanted{}, "10.6.0.3 fd00::2"},
		{Wanted{Last: at("10.6.0.9"), Last6: at("fd00::9")}, "10.6.0.9 fd00::9"},
		{Wanted{Last: at("10.6.0.4")}, "10.6.0.3 fd00::2"},
		{Wanted{Last: at("10.9.0.4")}, "10.6.0.3 fd00::2"},
		{Wanted{IP: at("10.6.7.8"), IP6: at("fd00::77")}, "10.6.7.8 fd00::77"},
		{Wanted{IP: at("10.6.0.4")}, "Address already in use"},
		{Wanted{IP: at("10.6.0.1")}, "Address already in use"},
		{Wanted{IP: at("10.7.0.4")}, "invalid endpoint settings: no configured subnet contains IP address 10.7.0.4"},
	} {
		a, b, err := allocate(n, used, tt.w)
		got := fmt.Sprint(a, " ", b)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.w, got, tt.want)
		}
	}
	none := netip.Addr{}
	for _, tt := range []struct {
		ip4, ip6 netip.Addr
		id, want string
	}{
		{at("172.17.0.2"), none, "a", "02:42:ac:11:00:02"},
		{none, at("fd55::2"), "a", "02:43:d7:2e:71:95"},
		{none, none, "a", "02:43:e4:0c:29:2c"}, // a machine without IPv6, on a network without IPv4
		{none, none, "b", "02:43:e7:0c:2d:e5"},
	} {
		if m := MACText(MAC(tt.ip4, tt.ip6, tt.id)); m != tt.want {
			t.Errorf("%v %v %s: %s, want %s", tt.ip4, tt.ip6, tt.id, m, tt.want)
		}
	}
}

// A user's default network has IPv6 while the machine has a route for it: one that is
// new, and one that was made before; root's has none.
func TestDefaultNetworkIPv6(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	ready := func(s Store, six bool) *Network {
		t.Helper()
		n, err := s.Ready(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if n.IPv6 != six || n.Pool4() == nil {
			t.Errorf("%+v, want IPv6 %v", n, six)
		}
		return n
	}
	do := doer(t)
	before := ready(s, false)
	do(netlink.AddBridge("br0", nil, 1500))
	up, err := netlink.Index("br0")
	if err != nil {
		t.Fatal(err)
	}
	far := net.ParseIP("fd09::2")
	do(netlink.AddAddress(up, net.ParseIP("fd09::1"), 64), netlink.SetUp(up))
	ready(s, false) // the neighbours alone
	do(netlink.AddRoute(netlink.Route{Gateway: far, Index: up}))
	root := Store{Root: t.TempDir(), Run: t.TempDir(), Machine: t.TempDir()}
	ready(root, false)
	ready(Store{Root: t.TempDir(), Run: t.TempDir()}, true)
	after := ready(s, true)
	ula, err := s.ula(true)
	if err != nil {
		t.Fatal(err)
	}
	if p := after.Pool6(); p == nil || p.Subnet.Bits() != 64 || !ula.Overlaps(p.Subnet) || p.Gateway != p.Subnet.Addr().Next() {
		t.Errorf("%+v is no subnet of %s", p, ula)
	}
	if after.Pool4().Subnet != before.Pool4().Subnet || !after.Created.Equal(before.Created) || after.Device != before.Device {
		t.Errorf("%+v was %+v", after, before)
	}
	if again := ready(s, true); again.Pool6().Subnet != after.Pool6().Subnet {
		t.Error("it has changed its subnet")
	}
	do(netlink.DelRoute(netlink.Route{Family: syscall.AF_INET6}))
	ready(s, false)
}

func TestStore(t *testing.T) {
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	ctx := t.Context()
	n, _, err := s.Create(ctx, CreateRequest{Name: "mine", Subnets: []string{"10.200.0.0/24"}, Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil || len(all) != 4 {
		t.Fatal(len(all), err)
	}
	for _, ref := range []string{n.ID, "mine", n.ID[:8]} {
		if got, err := s.Find(ref); err != nil || got.ID != n.ID || got.Labels["a"] != "b" {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := s.Find("nope"); err == nil || err.Error() != "network nope not found" || errs.KindOf(err) != errs.NotFound {
		t.Error(err)
	}
	if b, err := s.Find("bridge"); err != nil || b.Pool4() == nil {
		t.Errorf("the default network has no subnet: %v", err)
	}
	held, err := s.Hold(ctx, []Attach{{Network: n, Endpoint: Endpoint{Container: strings.Repeat("c", 64), Name: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	if held[0].IP.String() != "10.200.0.2" || held[0].Gateway.String() != "10.200.0.1" || held[0].Bits != 24 {
		t.Errorf("%+v", held[0].Endpoint)
	}
	if _, err := s.Hold(ctx, []Attach{{Network: n, Endpoint: Endpoint{Container: strings.Repeat("c", 64), Name: "web"}}}); err == nil || err.Error() != "endpoint with name web already exists in network mine" {
		t.Error(err)
	}
	if _, err := s.Remove(ctx, "mine"); err == nil || !strings.Contains(err.Error(), "has active endpoints") {
		t.Error(err)
	}
	if err := s.Rename(ctx, strings.Repeat("c", 64), func(e *Endpoint) { e.Name = "w" }); err != nil {
		t.Error(err)
	}
	if eps, err := s.Endpoints(n.ID); err != nil || len(eps) != 1 || eps[0].Name != "w" {
		t.Errorf("%v %v", eps, err)
	}
	// A killed holder: its file stays, its lock does not.
	if err := held[0].File.Close(); err != nil {
		t.Fatal(err)
	}
	if eps, err := s.Endpoints(""); err != nil || len(eps) != 0 {
		t.Errorf("%v %v", eps, err)
	}
	again, err := s.Hold(ctx, []Attach{{Network: n, Endpoint: Endpoint{Container: strings.Repeat("d", 64), Name: "db"}}})
	if err != nil || again[0].IP.String() != "10.200.0.2" {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(filepath.Join(s.Run, "net", "ep")); len(list) != 1 {
		t.Errorf("%d files", len(list))
	}
	if err := again[0].Release(); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"bridge", "host", "none"} {
		if _, err := s.Remove(ctx, name); err == nil || err.Error() != name+" is a pre-defined network and cannot be removed" {
			t.Error(err)
		}
	}
	if _, err := s.Remove(ctx, "mine"); err != nil {
		t.Error(err)
	}
	if _, err := s.Hold(ctx, []Attach{{Network: n, Endpoint: Endpoint{Container: strings.Repeat("d", 64)}}}); errs.KindOf(err) != errs.NotFound {
		t.Errorf("an address in a network that is gone: %v", err)
	}
}

// Fifty at once get fifty addresses.
func TestHoldManyAtOnce(t *testing.T) {
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	n, _, err := s.Create(t.Context(), CreateRequest{Name: "mine", Subnets: []string{"10.200.0.0/24"}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var keep []*Held // a file that nobody holds is closed
	seen := map[netip.Addr]bool{}
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			h, err := s.Hold(t.Context(), []Attach{{Network: n, Endpoint: Endpoint{Container: NewID()}}})
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[h[0].IP] {
				t.Error(err, h)
				return
			}
			seen[h[0].IP] = true
			keep = append(keep, h...)
		})
	}
	wg.Wait()
	if len(seen) != 50 {
		t.Errorf("%d addresses", len(seen))
	}
	runtime.KeepAlive(keep)
}

func TestNewerFilesAreRefusedWithAHint(t *testing.T) {
	s := Store{Root: t.TempDir(), Run: t.TempDir()}
	if err := errors.Join(os.MkdirAll(s.dir(), 0o700), os.WriteFile(filepath.Join(s.dir(), "x.json"), []byte(`{"v":2,"id":{"new":"form"}}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if errs.KindOf(err) != errs.Unsupported || errs.HintOf(err) == "" || len(all) != 3 {
		t.Errorf("%v, %d networks", err, len(all))
	}
}

func TestElect(t *testing.T) {
	gw, gw6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("fd00::1")
	for _, tt := range []struct {
		list   []Candidate
		v4, v6 int
	}{
		{nil, -1, -1},
		{[]Candidate{{Name: "b", Gateway: gw}, {Name: "a", Gateway: gw}}, 1, -1},
		{[]Candidate{{Name: "b", Gateway: gw, Priority: 1}, {Name: "a", Gateway: gw}}, 0, -1},
		{[]Candidate{{Name: "a", Gateway: gw, Internal: true, Priority: 9}, {Name: "b", Gateway: gw}}, 1, -1},
		{[]Candidate{{Name: "a", Gateway: gw}, {Name: "b", Gateway: gw, Gateway6: gw6}}, 1, 1},
		{[]Candidate{{Name: "a", Gateway6: gw6}, {Name: "b", Gateway: gw}}, 1, 0},
		{[]Candidate{{Name: "a", Gateway: gw, Internal: true}}, -1, -1},
	} {
		if v4, v6 := Elect(tt.list); v4 != tt.v4 || v6 != tt.v6 {
			t.Errorf("%+v: %d %d, want %d %d", tt.list, v4, v6, tt.v4, tt.v6)
		}
	}
}

func TestHosts(t *testing.T) {
	h := Hosts{
		Hostname: "web", Domainname: "example.org", Extra: []string{"a:1.2.3.4", "b:host-gateway", "host.docker.internal:5.5.5.5"},
		Gateway: netip.MustParseAddr("169.254.1.2"), Own: []netip.Addr{netip.MustParseAddr("172.17.0.3")},
		Links: []HostLine{{netip.MustParseAddr("172.17.0.2"), "pq 0123456789ab pp"}},
	}
	want := "127.0.0.1\tlocalhost\n1.2.3.4\ta\n169.254.1.2\tb\n5.5.5.5\thost.docker.internal\n169.254.1.2\thost.containers.internal\n172.17.0.2\tpq 0123456789ab pp\n172.17.0.3\tweb.example.org web\n"
	if got := h.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	h.Own = []netip.Addr{netip.MustParseAddr("172.17.0.9"), netip.MustParseAddr("10.0.0.2")}
	edited := h.Edit(want + "9.9.9.9\tmine web")
	if !strings.Contains(edited, "\n9.9.9.9\tmine web\n") || strings.Contains(edited, "172.17.0.3") || strings.Count(edited, "web.example.org web") != 2 || strings.Count(edited, "pq ") != 1 {
		t.Errorf("edited\n%s", edited)
	}
	for in, want := range map[[2]string]string{{"web", ""}: "web", {"a.b.c", ""}: "a.b.c a", {"web", "d.e"}: "web.d.e web", {"web.d.e", "d.e"}: "web.d.e web"} {
		if got := ownNames(in[0], in[1]); got != want {
			t.Errorf("%v: %s", in, got)
		}
	}
}

func TestResolv(t *testing.T) {
	host := "# comment\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nnameserver 2620:fe::fe\ndomain old\nsearch a.b c.d\noptions edns0 trust-ad\nsortlist 1.2.3.4\n"
	for _, tt := range []struct {
		r    Resolv
		want string
	}{
		{Resolv{Own: true}, "nameserver 127.0.0.11\nsearch a.b c.d\noptions edns0 trust-ad ndots:0\nsortlist 1.2.3.4\n"},
		{Resolv{NoIPv6: true}, "nameserver 9.9.9.9\nsearch a.b c.d\noptions edns0 trust-ad\nsortlist 1.2.3.4\n"},
		{Resolv{Own: true, Servers: []string{"1.1.1.1"}, Search: []string{"q.r"}, Options: []string{"ndots:2"}}, "nameserver 127.0.0.11\nsearch q.r\noptions ndots:2\nsortlist 1.2.3.4\n"},
		{Resolv{Servers: []string{"1.1.1.1"}, Search: []string{"."}}, "nameserver 1.1.1.1\noptions edns0 trust-ad\nsortlist 1.2.3.4\n"},
		{Resolv{Keep: true}, host},
		{Resolv{Keep: true, Search: []string{"x"}}, "nameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nnameserver 2620:fe::fe\nsearch x\noptions edns0 trust-ad\nsortlist 1.2.3.4\n"},
	} {
		tt.r.Host = host
		if got, ok := tt.r.Text(); got != tt.want || !ok {
			t.Errorf("%+v: got\n%s", tt.r, got)
		}
	}
	if _, ok := (Resolv{Host: "nameserver 127.0.0.1\n"}).Text(); ok {
		t.Error("a server on loopback is one")
	}
	if n := (Resolv{Host: "options ndots:5\n"}).Ndots(); n != 5 {
		t.Error(n)
	}
}

func TestFind(t *testing.T) {
	all := []*Network{{ID: "abc1", Name: "x"}, {ID: "abc2", Name: "y"}, {ID: "dddd", Name: "abc1"}}
	for ref, want := range map[string]string{"abc1": "abc1", "y": "abc2", "dd": "dddd", "abc": "ambiguous", "zz": "not found"} {
		n, err := Find(all, ref)
		if err != nil && !strings.Contains(err.Error(), want) || err == nil && n.ID != want {
			t.Errorf("%s: %v %v", ref, n, err)
		}
	}
}

// What the host reaches by a table of its own, as VPNs have them, and the addresses of
// devices that are down are avoided; what a table leaves to others is not.
func TestReadHost(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	do := doer(t)
	const down = 1 // a new namespace's loopback
	do(netlink.AddBridge("br0", nil, 1500))
	up, err := netlink.Index("br0")
	if err != nil {
		t.Fatal(err)
	}
	route := func(table, kind, second, third, bits byte) {
		t.Helper()
		m := netlink.New("add the route", syscall.RTM_NEWROUTE, syscall.NLM_F_CREATE).
			Raw(syscall.AF_INET, bits, 0, 0, table, syscall.RTPROT_BOOT, syscall.RT_SCOPE_LINK, kind, 0, 0, 0, 0)
		if bits > 0 {
			m.Attr(syscall.RTA_DST, 172, second, third, 0)
		}
		if kind == syscall.RTN_UNICAST {
			m.U32(syscall.RTA_OIF, uint32(up))
		}
		do(m)
	}
	want := func(pool string) {
		t.Helper()
		h := readHost()
		if p, err := free4(h, nil); err != nil || p.String() != pool {
			t.Errorf("%v %v, want %s; %+v", p, err, pool, h)
		}
	}
	want("172.17.0.0/16")
	route(52, syscall.RTN_UNICAST, 0, 0, 0)
	route(52, 9, 17, 0, 16) // RTN_THROW
	want("172.17.0.0/16")
	route(52, syscall.RTN_UNICAST, 17, 3, 24)
	want("172.18.0.0/16")
	do(netlink.AddAddress(down, []byte{172, 18, 4, 1}, 24))
	want("172.19.0.0/16")
	route(syscall.RT_TABLE_MAIN, syscall.RTN_UNICAST, 16, 0, 12)
	want("192.168.0.0/20")
	do(netlink.AddAddress(down, []byte{192, 168, 1, 1}, 16))
	want("172.19.0.0/16") // a pool of a wide route, rather than none
}

// doer returns what asks the kernel to change this network.
func doer(t *testing.T) func(...*netlink.Message) {
	t.Helper()
	c, err := netlink.Dial(netlink.FamilyRoute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return func(m ...*netlink.Message) {
		t.Helper()
		if err := c.Do(m...); err != nil {
			t.Fatal(err)
		}
	}
}
