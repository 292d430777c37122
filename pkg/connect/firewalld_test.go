package connect

import (
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/dbus"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network/netlink"
	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/pkg/network/nft"
)

// fakeBus answers as a message bus with firewalld 1.3 does; zones are its bridges', now
// and in its files. It returns the calls that would change something.
func fakeBus(t *testing.T, path string, zones map[string]string) func() []string {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	calls := make(chan string, 16)
	answer := func(text string) string { // to one call
		if strings.Contains(text, "Hello") {
			return ":1.7"
		}
		for bridge, zone := range zones {
			if strings.Contains(text, "getZoneOfInterface\x00") && strings.HasSuffix(text, bridge+"\x00") {
				return zone
			}
		}
		for _, m := range []string{"addInterface", "removeInterface"} {
			if strings.Contains(text, m+"\x00") {
				f := strings.Split(strings.TrimRight(text, "\x00"), "\x00")
				if strings.Contains(text, "/config/zone/7\x00") {
					m = "keep " + m
				}
				calls <- m + " " + f[len(f)-1]
			}
		}
		return "/org/fedoraproject/FirewallD1/config/zone/7"
	}
	serve := func(conn net.Conn) {
		defer conn.Close()
		buf := make([]byte, 4096)
		_, _ = conn.Read(buf)
		_, _ = conn.Write([]byte("OK 0123\r\n"))
		_, _ = io.ReadFull(conn, buf[:len("BEGIN\r\n")])
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			var body dbus.Body
			body.Text(answer(string(buf[:n])))
			m := dbus.Body{'l', 2, 0, 1}
			m.Uint32(uint32(len(body)))
			m.Uint32(7)
			m.Array(8, func() { m = append(m, 5); m.Signature("u"); m.Uint32(binary.LittleEndian.Uint32(buf[8:])) })
			m.Align(8)
			_, _ = conn.Write(append(m, body...))
		}
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go serve(conn)
		}
	}()
	return func() (list []string) {
		for len(calls) > 0 {
			list = append(list, <-calls)
		}
		return list
	}
}

func TestFirewalld(t *testing.T) {
	if !nettest.Alone(t) {
		return
	}
	bus := filepath.Join(t.TempDir(), "bus")
	changed := fakeBus(t, bus, map[string]string{"br-new": "", "br-ours": "trusted", "br-own": "work", "mine0": "", "mine1": "trusted"})
	s := New(Options{Containers: container.Store{}, Log: slog.New(slog.DiscardHandler), Environ: []string{"DBUS_SYSTEM_BUS_ADDRESS=unix:path=" + bus + ",guid=1"}})
	check := func(bridge string, pass bool, want string) {
		t.Helper()
		lost, err := s.passFirewalld(t.Context(), bridge, strings.HasPrefix(bridge, "mine"), pass)
		if got := fmt.Sprint(lost, err, changed()); got != want {
			t.Errorf("%s, pass %t: %s, want %s", bridge, pass, got, want)
		}
	}
	check("br-new", true, "false <nil> []") // its rules are not in this network
	c, err := netlink.Dial(netlink.FamilyNetfilter)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Batch(nft.Table(nft.Inet, "firewalld", 0, true)); err != nil {
		t.Fatal(err)
	}
	check("br-new", true, "true <nil> [addInterface br-new keep addInterface br-new]")
	check("mine0", true, "true <nil> [addInterface mine0]")
	check("br-ours", true, "false <nil> []")
	check("br-own", true, "false <nil> []")
	check("br-new", false, "false <nil> []")
	check("br-own", false, "false <nil> []")
	check("br-ours", false, "false <nil> [removeInterface br-ours keep removeInterface br-ours]")
	check("mine1", false, "false <nil> [removeInterface mine1]")
	s.environ[0] = strings.Replace(s.environ[0], bus, bus+"x", 1)
	if _, err := s.passFirewalld(t.Context(), "br-new", false, true); !strings.Contains(errs.HintOf(err), "--zone=trusted --add-interface=br-new") {
		t.Errorf("no bus: %v, %s", err, errs.HintOf(err))
	}
}
