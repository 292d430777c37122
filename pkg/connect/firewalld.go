package connect

import (
	"context"
	"errors"
	"strings"
	"time"

	"cais.dev/cais/pkg/dbus"
	"cais.dev/cais/pkg/errs"
)

// firewalld refuses what no rule of its own allows, and its zones say what is: a
// bridge in none is in the default one, from which nothing is forwarded to devices
// of others. firewalld.dbus(5).

// trusted is the zone whose packets all pass.
const trusted = "trusted"

// firewalld is a connection with it.
type firewalld struct{ conn *dbus.Conn }

// openFirewalld connects with firewalld if its rules are in this network; nil if
// they are not.
func (s *Service) openFirewalld(ctx context.Context) (*firewalld, error) {
	there, err := inetTables()
	if err != nil || !there["firewalld"] {
		return nil, err
	}
	path, ok := strings.CutPrefix(s.env("DBUS_SYSTEM_BUS_ADDRESS"), "unix:path=")
	if !ok {
		path = "/run/dbus/system_bus_socket"
	}
	path, _, _ = strings.Cut(path, ",")
	c, err := dbus.Dial(ctx, path)
	if err != nil {
		return nil, err
	}
	const bus = "org.freedesktop.DBus"
	if _, err := c.Do(dbus.Call{To: bus, Path: "/org/freedesktop/DBus", Interface: bus, Member: "Hello"}); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &firewalld{c}, nil
}

func (f *firewalld) close() {
	_ = f.conn.Close() // what was asked has been answered
}

// ask calls a method of its zones.
func (f *firewalld) ask(member string, args ...string) (string, error) {
	c := dbus.Call{
		To: "org.fedoraproject.FirewallD1", Path: "/org/fedoraproject/FirewallD1", Interface: "org.fedoraproject.FirewallD1.zone",
		Member: member, Signature: strings.Repeat("s", len(args)),
	}
	for _, a := range args {
		c.Body.Text(a)
	}
	answer, err := f.conn.Do(c)
	return dbus.Text(answer), err
}

// zoneOf is the zone that a bridge was put into; "" if into none.
func (f *firewalld) zoneOf(bridge string) (string, error) {
	return f.ask("getZoneOfInterface", bridge)
}

// passFirewalld has firewalld, where it runs, trust a bridge that is in no zone, or
// takes that back. It reports whether it has changed something: firewalld forgets
// all this when it is loaded again.
func (s *Service) passFirewalld(ctx context.Context, bridge string, pass bool) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	f, err := s.openFirewalld(ctx)
	if err == nil && f == nil {
		return false, nil
	}
	if err == nil {
		defer f.close()
		var zone string
		zone, err = f.zoneOf(bridge)
		switch {
		case err != nil:
		case pass && zone == "":
			_, err = f.ask("addInterface", trusted, bridge)
			changed = err == nil
		case !pass && zone == trusted:
			_, err = f.ask("removeInterface", trusted, bridge)
		}
	}
	if err != nil {
		hint := "It may drop its packets until 'firewall-cmd --zone=" + trusted + " --add-interface=" + bridge + "'."
		if !pass {
			hint = "A device of this name may be trusted until 'firewall-cmd --zone=" + trusted + " --remove-interface=" + bridge + "'."
		}
		err = errs.WithHint(errs.E("ask firewalld about the bridge "+bridge, errs.Unsupported, err), hint)
	}
	return changed, err
}
