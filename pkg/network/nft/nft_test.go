package nft_test

import (
	"encoding/hex"
	"os/exec"
	"strings"
	"testing"

	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/network/nft"
)

// TestBytes holds a message to what nft 1.0.6 --debug=mnl shows for the same; all
// others are read back by TestListing.
func TestBytes(t *testing.T) {
	const want = "24000000 000a 0104 00000000 00000000 02 00 0000 0600 0100 7800 0000 0800 0200 00000000"
	if got := hex.EncodeToString(nft.Table(nft.IP, "x", 0, false).Bytes()); got != strings.ReplaceAll(want, " ", "") {
		t.Errorf("add table ip x\n got %s\nwant %s", got, want)
	}
}

// TestListing: the nft program reads every expression as what was meant.
func TestListing(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("nft is not installed")
	}
	if !nettest.Alone(t) {
		return
	}
	p := nettest.New(t)
	mark := []nft.Expr{nft.Meta(nft.MetaMark, 1), nft.Eq(1, 2, 0, 0, 0)}
	rules := map[string][]nft.Expr{
		"ip saddr 10.0.0.1 tcp dport 80 drop": {nft.Payload(nft.Network, 12, 4, 1), nft.Eq(1, 10, 0, 0, 1), nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, 6),
			nft.Payload(nft.Transport, 2, 2, 1), nft.Eq(1, 0, 80), nft.Verdict(nft.Drop)},
		"meta mark 0x00000002 reject with icmp host-prohibited": append(mark, nft.RejectICMP(10)),
		"fib daddr type local accept":                           {nft.FIB(nft.FIBAddrType, nft.FIBDaddr, 1), nft.Eq(1, nft.TypeLocal, 0, 0, 0), nft.Verdict(nft.Accept)},
		"ct state established,related accept":                   append(append([]nft.Expr{nft.CT(nft.CTState, 1)}, nft.Has(1, nft.Established|nft.Related)...), nft.Verdict(nft.Accept)),
		"ct status dnat accept":                                 append(append([]nft.Expr{nft.CT(nft.CTStatus, 1)}, nft.Has(1, nft.StatusDNAT)...), nft.Verdict(nft.Accept)),
	}
	p.Must(func() error {
		c, err := netlink.Dial(netlink.FamilyNetfilter)
		if err != nil {
			return err
		}
		defer c.Close()
		batch := []*netlink.Message{
			nft.Table(nft.IP, "x", 0, true), nft.Base(nft.IP, "x", "c", "filter", nft.Prerouting, -10, nft.Accept),
			nft.Base(nft.IP, "x", "n", "nat", nft.Prerouting, -100, nft.Accept), nft.Base(nft.IP, "x", "p", "nat", nft.Postrouting, 100, nft.Accept),
			nft.Rule(nft.IP, "x", "n", nft.Meta(nft.MetaL4Proto, 1), nft.Eq(1, 6), nft.Set(1, 10, 0, 0, 2), nft.Set(2, 0, 80), nft.DNAT(nft.IP, 1, 2)),
			nft.Rule(nft.IP, "x", "p", nft.Meta(nft.MetaOIFName, 1), nft.Ne(1, nft.Name("br-1")...), nft.Masquerade()),
		}
		for _, e := range rules {
			batch = append(batch, nft.Rule(nft.IP, "x", "c", e...))
		}
		if err := c.Batch(append(batch, nft.InsertRule(nft.IP, "x", "c", "a word", nft.Verdict(nft.Drop)))...); err != nil {
			return err
		}
		// All or nothing, and which one it was.
		err = c.Batch(nft.Table(nft.IP, "y", 0, true), nft.Rule(nft.IP, "y", "nosuch", nft.Verdict(nft.Drop)))
		if err == nil || !strings.Contains(err.Error(), "y nosuch") {
			t.Errorf("a rule in no chain: %v", err)
		}
		owned, err := netlink.Dial(netlink.FamilyNetfilter)
		if err != nil {
			return err
		}
		if err := owned.Batch(nft.Table(nft.IP, "mine", nft.Owner, true)); err != nil {
			t.Skip("no owned tables: ", err)
		}
		if err := c.Batch(nft.DeleteTable(nft.IP, "mine")); err == nil {
			t.Error("another's table could be removed")
		}
		owned.Close()
		return nil
	})
	list := p.Run("nft", "list", "ruleset")
	for want := range rules {
		if !strings.Contains(list, want+"\n") {
			t.Errorf("%q is not in\n%s", want, list)
		}
	}
	for _, want := range []string{"dnat to 10.0.0.2:80", `oifname != "br-1" masquerade`, `drop comment "a word"`, "priority filter - 10", "priority dstnat"} {
		if !strings.Contains(list, want) {
			t.Errorf("%q is not in\n%s", want, list)
		}
	}
	if strings.Contains(list, "mine") || strings.Contains(list, "table ip y") {
		t.Errorf("left over:\n%s", list)
	}
}
