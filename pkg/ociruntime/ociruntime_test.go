package ociruntime

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

func TestCheckVersion(t *testing.T) {
	for v, ok := range map[string]bool{
		"1.0.0": true, "1.0.2-dev": true, "1.3.0": true, "1.3.1+dev": true, "1.9.0": true, "1.0.0-rc5": true,
		"": false, "1": false, "invalid": false, "1.0": false, "1.x.0": false, "2.0.0": false,
	} {
		if err := checkVersion(v); (err == nil) != ok {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestCheckID(t *testing.T) {
	for id, ok := range map[string]bool{"a": true, "a+b_c-d.e": true, "1": true, "": false, ".": false, "..": false, "a/b": false, "a b": false, "ä": false} {
		if err := checkID(id); (err == nil) != ok {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestExampleIsAccepted(t *testing.T) {
	for _, rootless := range []bool{false, true} {
		dir := t.TempDir()
		if err := WriteSpec(dir, rootless); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readConfig(dir, ""); err != nil {
			t.Error(err)
		}
		if err := WriteSpec(dir, rootless); errs.KindOf(err) != errs.Conflict {
			t.Errorf("a second time: %v", err)
		}
	}
}

func TestUserOfExecIsANumber(t *testing.T) { // crun CVE-2026-30892
	for _, bad := range []string{"1x", ":5", "-1", "4294967296", "4294967295", "root", "1:", "1:x", " 1"} {
		o := ExecOptions{User: bad}
		if _, err := o.process(&specs.Spec{}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	o := ExecOptions{User: "7:8", Args: []string{"x"}, Caps: []string{"CAP_SYS_ADMIN"}}
	p, err := o.process(&specs.Spec{Process: &specs.Process{Cwd: "/w", User: specs.User{AdditionalGids: []uint32{3}}}})
	if err != nil || p.User.UID != 7 || p.User.GID != 8 || len(p.User.AdditionalGids) != 0 || p.Cwd != "/w" {
		t.Error(p, err)
	}
	if len(p.Capabilities.Inheritable) != 0 || len(p.Capabilities.Ambient) != 0 {
		t.Error("--cap reaches the inheritable set", p.Capabilities)
	}
}

func TestHooksAreChecked(t *testing.T) {
	zero := 0
	for _, h := range []specs.Hook{{Path: "relative"}, {Path: ""}, {Path: "/x", Timeout: &zero}} {
		if err := checkHooks(&specs.Hooks{Poststop: []specs.Hook{h}}); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

func TestKilledCreateCanBeDeleted(t *testing.T) {
	r := New(t.TempDir(), Disabled, func(text string) { t.Log(text) })
	for name, state := range map[string]string{"first": "", "later": `{"version":1,"id":"later","bundle":"/b","created":"2026-01-01T00:00:00Z"}`} {
		dir := filepath.Join(r.Root, name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if state != "" {
			if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(state), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if s, err := r.State(name); err != nil || s.Status != specs.StateStopped {
			t.Error(name, s, err)
		}
		if err := r.Delete(context.Background(), name, false); err != nil {
			t.Error(err)
		}
		if _, err := r.State(name); errs.KindOf(err) != errs.NotFound {
			t.Error(name, err)
		}
	}
}

func TestForeignRecordIsLeftAlone(t *testing.T) {
	r := New(t.TempDir(), Disabled, nil)
	dir := filepath.Join(r.Root, "new")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "state.json"), []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.State("new"); errs.KindOf(err) != errs.Unsupported {
		t.Error(err)
	}
}

func TestUpdateKeepsWhatIsNotNamed(t *testing.T) {
	res := &specs.LinuxResources{}
	Limits{Numbers: map[string]int64{"memory": 5, "pids-limit": 7}}.apply(res)
	if *res.Memory.Limit != 5 || res.Memory.Swap != nil || *res.Pids.Limit != 7 || res.CPU.Shares != nil || res.CPU.Quota != nil {
		t.Error(res)
	}
}

func TestFeaturesIsJSON(t *testing.T) {
	text, err := json.Marshal(Features("1"))
	if err != nil || !strings.Contains(string(text), `"CAP_SYS_ADMIN"`) {
		t.Error(string(text), err)
	}
}

func TestHomeStaysInTheRoot(t *testing.T) {
	for name, make := range map[string]func(root string) error{
		"/home/u": func(root string) error {
			return os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("a:x:0:0::/root:/bin/sh\nu:x:7:7::/home/u:/bin/sh\n"), 0o600)
		},
		"/": func(root string) error { return os.Symlink("/etc/passwd", filepath.Join(root, "etc/passwd")) },
	} {
		root := t.TempDir()
		if err := os.Mkdir(filepath.Join(root, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := make(root); err != nil {
			t.Fatal(err)
		}
		if got := home(root, 7); got != name {
			t.Errorf("%q, not %q", got, name)
		}
	}
}

func TestNothingIsLeftOut(t *testing.T) {
	for _, part := range []string{
		`"process":{"scheduler":{"policy":"SCHED_FIFO"},"user":{},"cwd":"/"}`, `"process":{"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":1},"user":{},"cwd":"/"}`,
		`"linux":{"timeOffsets":{"monotonic":{"secs":1}}}`, `"linux":{"personality":{"domain":"LINUX32"}}`, `"linux":{"intelRdt":{}}`,
		`"linux":{"netDevices":{"eth0":{}}}`, `"linux":{"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0"}}`,
	} {
		_, err := parseSpec([]byte(`{"ociVersion":"1.3.0","root":{"path":"r"},` + part + `}`))
		if errs.KindOf(err) != errs.Unsupported {
			t.Errorf("%s: %v", part, err)
		}
	}
	if _, err := parseSpec([]byte(`{"ociVersion":"1.3.0","root":{"path":"r"},"unknown":1,"linux":{"personality":{"domain":"LINUX"}}}`)); err != nil {
		t.Error(err)
	}
}
