package netlink_test

import (
	"encoding/hex"
	"errors"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
)

// TestBytes holds messages to what iproute2 5.10 and later send for the same, but
// for the number and the acknowledgement, which are added when they are sent.
func TestBytes(t *testing.T) {
	for name, tt := range map[string]struct {
		m    *netlink.Message
		want string
	}{
		"ip link set index 7 up":     {netlink.SetUp(7), "20000000 1000 0100 00000000 00000000 0000 0000 07000000 01000000 01000000"},
		"ip link del index 7":        {netlink.Delete(7), "20000000 1100 0100 00000000 00000000 0000 0000 07000000 00000000 00000000"},
		"ip route add default via":   {netlink.AddRoute(netlink.Route{Gateway: []byte{10, 0, 0, 1}, Index: 2}), "2c000000 1800 0106 00000000 00000000 02 00 00 00 fe 03 00 01 00000000 0800 0500 0a000001 0800 0400 02000000"},
		"ip route add local default": {netlink.AddRoute(netlink.Route{Dst: make([]byte, 4), Index: 1, Local: true}), "2c000000 1800 0106 00000000 00000000 02 00 00 00 fe 03 fe 02 00000000 0800 0100 00000000 0800 0400 01000000"},
		"ip addr add 10.0.0.1/12": {netlink.AddAddress(3, []byte{10, 0, 0, 1}, 12),
			"30000000 1400 0106 00000000 00000000 02 0c 02 00 03000000 0800 0200 0a000001 0800 0100 0a000001 0800 0400 0a0fffff"},
	} {
		want := ""
		for _, c := range tt.want {
			if c != ' ' {
				want += string(c)
			}
		}
		if got := hex.EncodeToString(tt.m.Bytes()); got != want {
			t.Errorf("%s\n got %s\nwant %s", name, got, want)
		}
	}
}

func TestKernel(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	p := nettest.New(t)
	other := nettest.New(t)
	ns := other.FD()
	p.Must(func() error {
		c, err := netlink.Dial(netlink.FamilyRoute)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Do(netlink.AddBridge("br0", []byte{2, 0, 0, 0, 0, 1}, 1400)); err != nil {
			return err
		}
		br, err := netlink.Index("br0")
		if err != nil {
			return err
		}
		if err := c.Do(netlink.AddAddress(br, []byte{10, 1, 0, 1}, 16), netlink.AddVeth(netlink.Veth{
			Name: "v0", Master: br, MTU: 1400, Peer: "eth0", PeerMAC: []byte{2, 0, 0, 0, 0, 2}, PeerNS: ns,
		})); err != nil {
			return err
		}
		// The first refusal is told, and what of.
		err = c.Do(netlink.AddBridge("br0", nil, 1400), netlink.SetUp(br))
		if !netlink.Is(err, syscall.EEXIST) || err.Error() == "" {
			t.Errorf("a second bridge of the name: %v", err)
		}
		var e *netlink.Error
		if !errors.As(err, &e) || e.What != "add the bridge br0" {
			t.Errorf("%v", err)
		}
		n := 0
		err = c.Get(netlink.New("list", syscall.RTM_GETLINK, syscall.NLM_F_DUMP).Raw(make([]byte, 16)...), func(uint16, []byte) { n++ })
		if err != nil || n < 3 {
			t.Errorf("%d devices, %v", n, err)
		}
		v0, err := netlink.Index("v0")
		if err != nil {
			return err
		}
		return c.Do(netlink.SetIsolated(v0))
	})
	other.Must(func() error { _, err := netlink.Index("eth0"); return err })
	if _, err := netlink.Index("nosuch0"); !netlink.Is(err, syscall.ENODEV) {
		t.Errorf("a device that is not there: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	f.Add(netlink.SetUp(1).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		netlink.Messages(b, func(_ uint16, _ uint32, body []byte) {
			netlink.Attributes(body, func(_ uint16, v []byte) {
				if len(v) > len(b) {
					t.Error("longer than it was")
				}
			})
		})
		netlink.Attributes(b, func(uint16, []byte) {})
	})
}
