package cgroup

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// As much of D-Bus as it takes to ask systemd for a scope: one call over its own
// socket, which needs no message bus. The D-Bus specification; systemd's
// org.freedesktop.systemd1(5).

// message is a D-Bus message being written, little-endian.
type message []byte

func (m *message) align(n int) {
	for len(*m)%n != 0 {
		*m = append(*m, 0)
	}
}

func (m *message) u32(v uint32) {
	m.align(4)
	*m = binary.LittleEndian.AppendUint32(*m, v)
}

func (m *message) str(s string) {
	m.u32(uint32(len(s)))
	*m = append(append(*m, s...), 0)
}

func (m *message) signature(s string) { *m = append(append(append(*m, byte(len(s))), s...), 0) }

// array writes the elements that fill writes, each aligned to align.
func (m *message) array(align int, fill func()) {
	m.u32(0)
	at := len(*m) - 4
	m.align(align)
	start := len(*m)
	fill()
	binary.LittleEndian.PutUint32((*m)[at:], uint32(len(*m)-start))
}

// property writes a name and a value of the given type, as an element of a(sv).
func (m *message) property(name, signature string, value func()) {
	m.align(8)
	m.str(name)
	m.signature(signature)
	value()
}

// call is a method call on systemd's manager.
func call(member, signature string, body message) []byte {
	m := message{'l', 1, 0, 1} // a method call
	m.u32(uint32(len(body)))
	m.u32(1) // the only one
	field := func(code byte, signature, value string) {
		m.align(8)
		m = append(m, code)
		m.signature(signature)
		if signature == "g" {
			m.signature(value)
		} else {
			m.str(value)
		}
	}
	m.array(8, func() {
		field(1, "o", "/org/freedesktop/systemd1")
		field(2, "s", "org.freedesktop.systemd1.Manager")
		field(3, "s", member)
		field(6, "s", "org.freedesktop.systemd1")
		field(8, "g", signature)
	})
	m.align(8)
	return append(m, body...)
}

// scopeCall asks for a transient scope that holds the process pid.
func scopeCall(u Unit, pid int) []byte {
	var b message
	b.str(u.Name)
	b.str("replace")
	b.array(8, func() {
		b.property("Description", "s", func() { b.str("container of cais") })
		b.property("Slice", "s", func() { b.str(u.Slice) })
		b.property("Delegate", "b", func() { b.u32(1) })
		b.property("CollectMode", "s", func() { b.str("inactive-or-failed") })
		b.property("PIDs", "au", func() { b.array(4, func() { b.u32(uint32(pid)) }) })
	})
	b.array(8, func() {})
	return call("StartTransientUnit", "ssa(sv)a(sa(sv))", b)
}

// ask sends one call to the manager whose socket is at path, and reads its answer.
func ask(ctx context.Context, path string, request []byte) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return err
		}
	}
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	if _, err := conn.Write([]byte("\x00AUTH EXTERNAL " + uid + "\r\n")); err != nil {
		return err
	}
	r := bufio.NewReader(io.LimitReader(conn, 1<<20))
	line, err := r.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "OK ") {
		return errors.Join(err, fmt.Errorf("systemd does not let us in: %q", line))
	}
	if _, err := conn.Write(append([]byte("BEGIN\r\n"), request...)); err != nil {
		return err
	}
	for {
		kind, text, err := receive(r)
		switch {
		case err != nil:
			return err
		case kind == 3:
			return errors.New(text)
		case kind == 2:
			return nil
		} // a signal
	}
}

// receive reads one message: its type, and its text if it is an error.
func receive(r io.Reader) (kind byte, text string, err error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, "", err
	}
	body, fields := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
	if head[0] != 'l' || body > 1<<18 || fields > 1<<18 {
		return 0, "", errors.New("systemd answers in an unknown way")
	}
	rest := make([]byte, (fields+7)/8*8+body)
	if _, err := io.ReadFull(r, rest); err != nil {
		return 0, "", err
	}
	b := rest[uint32(len(rest))-body:]
	if head[1] == 3 && len(b) > 4 {
		if n := binary.LittleEndian.Uint32(b); uint64(n)+4 <= uint64(len(b)) {
			text = string(b[4 : 4+n])
		}
	}
	return head[1], text, nil
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
