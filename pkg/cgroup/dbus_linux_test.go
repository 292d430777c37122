package cgroup

import (
	"bytes"
	"testing"
)

func TestScopeCall(t *testing.T) {
	b := scopeCall(Unit{Name: "cais-x.scope", Slice: "app.slice"}, 4711).Body
	for _, want := range []string{"cais-x.scope", "app.slice", "Delegate", "\x67\x12\x00\x00"} { // the pid is the last
		if !bytes.Contains(b, []byte(want)) {
			t.Errorf("%q is not in it", want)
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
