package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/dbus"
)

// systemd's manager is asked over its own socket, which needs no message bus:
// org.freedesktop.systemd1(5).

// scopeCall asks for a transient scope that holds the process pid.
func scopeCall(u Unit, pid int) dbus.Call {
	var b dbus.Body
	property := func(name, signature string, value func()) {
		b.Align(8)
		b.Text(name)
		b.Signature(signature)
		value()
	}
	b.Text(u.Name)
	b.Text("replace")
	b.Array(8, func() {
		property("Description", "s", func() { b.Text("container of cais") })
		property("Slice", "s", func() { b.Text(u.Slice) })
		property("Delegate", "b", func() { b.Uint32(1) })
		property("CollectMode", "s", func() { b.Text("inactive-or-failed") })
		property("PIDs", "au", func() { b.Array(4, func() { b.Uint32(uint32(pid)) }) })
	})
	b.Array(8, func() {})
	return dbus.Call{
		To: "org.freedesktop.systemd1", Path: "/org/freedesktop/systemd1", Interface: "org.freedesktop.systemd1.Manager",
		Member: "StartTransientUnit", Signature: "ssa(sv)a(sa(sv))", Body: b,
	}
}

// ask sends one call to the manager whose socket is at path.
func ask(ctx context.Context, path string, call dbus.Call) error {
	c, err := dbus.Dial(ctx, path)
	if err != nil {
		return err
	}
	_, err = c.Do(call)
	return errors.Join(err, c.Close())
}

// manager is the socket of systemd, or of the user's manager.
func manager(user bool) string {
	if !user {
		return "/run/systemd/private"
	}
	dir := os.Getenv("XDG_RUNTIME_DIR")
	if dir == "" {
		dir = "/run/user/" + strconv.Itoa(os.Geteuid())
	}
	return filepath.Join(dir, "systemd/private")
}

// StartUnit makes the scope u, with the process pid in it, and returns its
// directory in the v2 tree.
func StartUnit(ctx context.Context, u Unit, pid int) (dir string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := ask(ctx, manager(u.User), scopeCall(u, pid)); err != nil {
		return "", fmt.Errorf("ask systemd for the scope %s: %w", u.Name, err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 20*time.Millisecond) { // the answer only says that it will
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
		if err != nil {
			return "", err
		}
		if p := unifiedPath(string(text)); filepath.Base(p) == u.Name {
			return p, nil
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("systemd did not make the scope %s: %w", u.Name, context.Cause(ctx))
		case <-time.After(wait):
		}
	}
}

// unifiedPath is the v2 line of a /proc/PID/cgroup.
func unifiedPath(text string) string {
	for line := range strings.Lines(text) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(p, "\n")
		}
	}
	return ""
}
