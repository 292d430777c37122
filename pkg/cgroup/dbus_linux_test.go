package cgroup

import (
	"bytes"
	"encoding/binary"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestScopeCallIsWellFormed(t *testing.T) {
	m := scopeCall(Unit{Name: "cais-x.scope", Slice: "app.slice"}, 4711)
	if m[0] != 'l' || m[1] != 1 || m[3] != 1 {
		t.Fatalf("% x", m[:16])
	}
	body, fields := int(binary.LittleEndian.Uint32(m[4:])), int(binary.LittleEndian.Uint32(m[12:]))
	start := (16 + fields + 7) / 8 * 8
	if start+body != len(m) {
		t.Errorf("fields %d, body %d, all %d", fields, body, len(m))
	}
	for _, want := range []string{"StartTransientUnit", "ssa(sv)a(sa(sv))", "cais-x.scope", "app.slice", "Delegate"} {
		if !bytes.Contains(m, []byte(want)) {
			t.Errorf("%q is not in it", want)
		}
	}
	if !bytes.Contains(m, []byte{0x67, 0x12, 0, 0}) {
		t.Error("the pid is not in it")
	}
}

// A manager that answers with an error, after a signal.
func TestAsk(t *testing.T) {
	for text, reply := range map[string]byte{"": 2, "no such slice": 3} {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			_, _ = conn.Write([]byte("OK 0123\r\n"))
			_, _ = conn.Read(buf)
			var body message
			body.str(text)
			for _, kind := range []byte{4, reply} {
				m := message{'l', kind, 0, 1}
				m.u32(uint32(len(body)))
				m.u32(7)
				m.array(8, func() { m.align(8); m = append(m, 5); m.signature("u"); m.u32(1) })
				m.align(8)
				_, _ = conn.Write(append(m, body...))
			}
			time.Sleep(50 * time.Millisecond)
		}()
		err = ask(t.Context(), path, call("X", "", nil))
		if (err == nil) != (reply == 2) || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestOCIUnit(t *testing.T) {
	for path, want := range map[string][2]string{
		"":                                 {"", "cais-id.scope"},
		"machine.slice:libpod:abc":         {"machine.slice", "libpod-abc.scope"},
		":cri-containerd:x":                {"", "cri-containerd-x.scope"},
		"user.slice:libpod-conmon:a.scope": {"user.slice", "libpod-conmon-a.scope"},
	} {
		u, err := OCIUnit(path, "id")
		if err != nil || u.Name != want[1] || want[0] != "" && u.Slice != want[0] {
			t.Errorf("%q: %+v %v", path, u, err)
		}
	}
	for _, bad := range []string{"/a/b", "a:b", "a:b:"} {
		if _, err := OCIUnit(bad, "id"); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}
