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

// ask calls a method of its zones, as they are now.
func (f *firewalld) ask(member string, args ...string) (string, error) {
	return f.call("", ".zone", member, args...)
}

// call calls a method of one of its objects, and returns the text that it answers.
func (f *firewalld) call(path, of, member string, args ...string) (string, error) {
	c := dbus.Call{
		To: "org.fedoraproject.FirewallD1", Path: "/org/fedoraproject/FirewallD1" + path, Interface: "org.fedoraproject.FirewallD1" + of,
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

// pass has a bridge that is in no zone trusted now, or no longer.
func (f *firewalld) pass(bridge string, pass bool) (changed bool, err error) {
	zone, err := f.zoneOf(bridge)
	switch {
	case err != nil:
	case pass && zone == "":
		_, err = f.ask("addInterface", trusted, bridge)
		changed = err == nil
	case !pass && zone == trusted:
		_, err = f.ask("removeInterface", trusted, bridge)
	}
	return changed, err
}

// keep does the same in what firewalld reads when it is loaded again.
func (f *firewalld) keep(bridge string, pass bool) error {
	const config = "/config"
	zone, err := f.call(config, ".config", "getZoneOfInterface", bridge)
	if err != nil || pass && zone != "" || !pass && zone != trusted {
		return err
	}
	path, err := f.call(config, ".config", "getZoneByName", trusted)
	if err != nil {
		return err
	}
	member := "removeInterface"
	if pass {
		member = "addInterface"
	}
	_, err = f.call(strings.TrimPrefix(path, "/org/fedoraproject/FirewallD1"), ".config.zone", member, bridge)
	return err
}

// passFirewalld has firewalld, where it runs, trust a bridge that is in no zone, or
// takes that back; one with a name of the user's only until it is loaded again, as that
// may be a device that he keeps for more. (No pattern of names would do for all: br-+ is
// others', too, and wins over their zones.) It reports whether firewalld did not know
// the bridge.
func (s *Service) passFirewalld(ctx context.Context, bridge string, named, pass bool) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	f, err := s.openFirewalld(ctx)
	if err == nil && f == nil {
		return false, nil
	}
	if err == nil {
		defer f.close()
		changed, err = f.pass(bridge, pass)
		if err == nil && !named && (changed || !pass) {
			err = f.keep(bridge, pass)
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
