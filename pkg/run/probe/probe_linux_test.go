package probe

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

func TestHost(t *testing.T) {
	h, err := Host(Options{})
	if err != nil {
		t.Fatal(err)
	}
	if h.Kernel.Major < 3 || h.CPUs < 1 || h.Arch != runtime.GOARCH || len(h.Rlimits) != 15 {
		t.Errorf("got %+v", h)
	}
	u, err := Host(Options{Rootless: true, SingleID: true, UIDs: []plan.IDMap{{Container: 0, Host: 1000, Size: 1}}})
	if err != nil || !u.InUserNS || u.RaiseLimits || u.Caps&1 == 0 || len(u.UIDs) != 1 {
		t.Errorf("rootless: %+v, %v", u, err)
	}
}

func TestParsers(t *testing.T) {
	for in, want := range map[string]int{"0-3\n": 4, "0": 1, "0-1,4-7\n": 8, "": runtime.NumCPU()} {
		if got := cpus(in); got != want {
			t.Errorf("cpus(%q) = %d, want %d", in, got, want)
		}
	}
	for in, want := range map[string]plan.Kernel{"6.12.3-amd64": {Major: 6, Minor: 12}, "5.4": {Major: 5, Minor: 4}, "10.0-rc1+": {Major: 10}} {
		if got, err := kernel(in); err != nil || got != want {
			t.Errorf("kernel(%q) = %v, %v; want %v", in, got, err, want)
		}
	}
	if _, err := kernel("linux"); err == nil {
		t.Error("a version without numbers is accepted")
	}
	if got := capField("Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0\n", "CapBnd:"); got != 0x1fffeffffff {
		t.Errorf("capField = %#x", got)
	}
	if got := allCaps("40\n"); got != 1<<41-1 {
		t.Errorf("allCaps = %#x", got)
	}
	if got := ids("         0       1000          1\n         1     100000      65536\n"); !slices.Equal(got, []plan.IDMap{{Container: 0, Host: 1000, Size: 1}, {Container: 1, Host: 100000, Size: 65536}}) {
		t.Errorf("ids = %v", got)
	}
	if limit(^uint64(0)) != -1 || limit(5) != 5 {
		t.Error("limit")
	}
}

func TestDevices(t *testing.T) {
	var in plan.Inputs
	req := plan.Request{Devices: []plan.Device{{Host: "/dev/null", Container: "/dev/null", Perms: "rwm"}}}
	if err := Devices(req, &in); err != nil {
		t.Fatal(err)
	}
	n := in.Devices["/dev/null"]
	if len(n) != 1 || n[0].Major != 1 || n[0].Minor != 3 || n[0].Block {
		t.Errorf("/dev/null: %+v", n)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"/dev/there-is-no-such", file, t.TempDir()} {
		req := plan.Request{Devices: []plan.Device{{Host: p, Container: p, Perms: "rwm"}}}
		if err := Devices(req, &in); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v, want Invalid", p, err)
		}
	}
	req = plan.Request{Resources: plan.Resources{ReadBPS: []plan.Rate{{Path: "/dev/null", Rate: 1}}}}
	if err := Devices(req, &in); err != nil || in.BlockDevices["/dev/null"].Minor != 3 {
		t.Errorf("rate: %v, %+v", err, in.BlockDevices)
	}
	if err := Devices(plan.Request{Privileged: true}, &in); err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(in.HostDevices, func(n plan.DeviceNode) bool { return n.Path == "/dev/null" }) {
		t.Error("a privileged container's own /dev/null is replaced")
	}
}

func BenchmarkHost(b *testing.B) {
	for b.Loop() {
		if _, err := Host(Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
