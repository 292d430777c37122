package cgroup

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const hybridMounts = `23 1 254:0 / / rw - ext4 /dev/vda rw
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw
90 31 0:32 /docker/abc /var/lib/x\040y/memory rw - cgroup cgroup rw,memory
`

func TestParse(t *testing.T) {
	hs := parse(hybridMounts, "9:name=systemd:/\n4:memory:/a/b\n2:cpu,cpuacct:/\n0::/user.slice\n")
	var got []string
	for _, h := range hs {
		got = append(got, fmt.Sprintf("v%d %v %s", h.version, h.controllers, h.base))
	}
	want := []string{
		"v1 [cpu cpuacct] /sys/fs/cgroup/cpu,cpuacct",
		"v1 [memory] /sys/fs/cgroup/memory/a/b",
		"v2 [] /sys/fs/cgroup/unified/user.slice",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}

	// Inside a container that shows its own directory as the root.
	hs = parse("35 31 0:32 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/abc/x\n")
	if len(hs) != 1 || hs[0].base != "/sys/fs/cgroup/x" {
		t.Errorf("nested: %+v", hs)
	}
	hs = parse("35 31 0:32 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/docker/abc\n")
	if len(hs) != 1 || hs[0].base != "/sys/fs/cgroup" {
		t.Errorf("nested, at its root: %+v", hs)
	}
	if hs = parse("garbage\n1 2 3\n", "x\n"); len(hs) != 0 {
		t.Errorf("garbage: %+v", hs)
	}
}

func TestPath(t *testing.T) {
	h := &Host{hierarchies: []*hierarchy{{version: 2, usable: func() bool { return true }}}}
	for parent, want := range map[string]string{
		"": "/cais-1", "/a/b": "/a/b/1", "a": "/a/1", "x-y.slice": "/x.slice/x-y.slice/1",
	} {
		if got, err := h.Path(parent, "1"); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", parent, got, err, want)
		}
	}
	if _, err := h.Path("../..", "1"); errs.KindOf(err) != errs.Invalid {
		t.Errorf("a way out: %v", err)
	}
	none := &Host{}
	if got, err := none.Path("", "1"); got != "" || err != nil {
		t.Errorf("no cgroups: %q, %v", got, err)
	}
	if _, err := none.Path("/a", "1"); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("no cgroups, with a parent: %v", err)
	}
}

func TestWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 1024: 39, 262144: 10000, 1 << 40: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

// plain makes a directory of ordinary files stand for a cgroup: what is written
// where is the same, only the kernel's answer is missing.
func plain(t *testing.T, files ...string) string {
	dir := t.TempDir()
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func read(t *testing.T, dir, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestApplyV2(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	u := func(v uint64) *uint64 { return &v }
	weight := uint16(1000)
	res := &specs.LinuxResources{
		Memory:  &specs.LinuxMemory{Limit: n(64 << 20), Swap: n(96 << 20), Reservation: n(32 << 20)},
		CPU:     &specs.LinuxCPU{Shares: u(1024), Quota: n(150000), Period: u(100000), Cpus: "0-1"},
		Pids:    &specs.LinuxPids{Limit: n(7)},
		BlockIO: &specs.LinuxBlockIO{Weight: &weight},
	}
	dir := plain(t, "memory.max", "memory.swap.max", "memory.low", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max", "io.weight")
	all := []string{"memory", "cpu", "cpuset", "pids", "io"}
	a := applier{res: res}
	a.v2(dir, all)
	if len(a.warnings) != 0 {
		t.Errorf("warnings: %v", a.warnings)
	}
	for file, want := range map[string]string{
		"memory.max": "67108864", "memory.swap.max": "33554432", "memory.low": "33554432", "cpu.weight": "39",
		"cpu.max": "150000 100000", "cpuset.cpus": "0-1", "pids.max": "7", "io.weight": "default 10000",
	} {
		if got := read(t, dir, file); got != want {
			t.Errorf("%s: got %q, want %q", file, got, want)
		}
	}
	// Without the files, each limit is a warning with its flag's name.
	a = applier{res: res}
	a.v2(t.TempDir(), all)
	var flags []string
	for _, w := range a.warnings {
		flags = append(flags, w.Flag)
	}
	if want := []string{"memory", "memory-swap", "memory-reservation", "cpu-shares", "cpus", "cpuset-cpus", "pids-limit", "blkio-weight"}; !slices.Equal(flags, want) {
		t.Errorf("flags %v, want %v", flags, want)
	}
}

// TestDeviceProgram interprets the program for rules like the default ones.
func TestDeviceProgram(t *testing.T) {
	num := func(v int64) *int64 { return &v }
	rules := []specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
		{Allow: true, Type: "c", Major: num(1), Minor: num(3), Access: "rwm"},
		{Allow: true, Type: "c", Major: num(136), Access: "rwm"},
		{Allow: true, Type: "b", Major: num(8), Minor: num(0), Access: "r"},
		{Type: "c", Major: num(136), Minor: num(9), Access: "w"},
	}
	code := deviceProgram(rules)
	tests := []struct {
		kind, access, major, minor uint32
		want                       uint32
	}{
		{devChar, accRead | accWrite, 1, 3, 1},
		{devChar, accRead, 1, 4, 0},
		{devBlock, accRead, 1, 3, 0},
		{devChar, accMknod, 99, 99, 1},
		{devBlock, accMknod, 8, 0, 1},
		{devBlock, accRead, 8, 0, 1},
		{devBlock, accRead | accWrite, 8, 0, 0},
		{devChar, accRead, 136, 7, 1},
		{devChar, accRead, 136, 9, 1},
		{devChar, accRead | accWrite, 136, 9, 0},
	}
	for _, tt := range tests {
		if got := interpret(t, code, [3]uint32{tt.access<<16 | tt.kind, tt.major, tt.minor}); got != tt.want {
			t.Errorf("%+v: got %d", tt, got)
		}
	}
	if !allowsAll([]specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}) || allowsAll(rules) {
		t.Error("allowsAll")
	}
}

func interpret(t *testing.T, code []byte, ctx [3]uint32) uint32 {
	var r [6]uint64
	for pc := 0; pc*ebpfLength < len(code); pc++ {
		i := code[pc*ebpfLength:]
		dst, src := i[1]&15, i[1]>>4
		off, imm := int(int16(binary.NativeEndian.Uint16(i[2:]))), binary.NativeEndian.Uint32(i[4:])
		switch i[0] {
		case bpfLoad:
			r[dst] = uint64(ctx[off/4])
		case bpfMov:
			r[dst] = r[src]
		case bpfMovImm:
			r[dst] = uint64(imm)
		case bpfAndImm:
			r[dst] &= uint64(imm)
		case bpfShrImm:
			r[dst] >>= imm
		case bpfJneImm:
			if r[dst] != uint64(imm) {
				pc += off
			}
		case bpfJeqImm:
			if r[dst] == uint64(imm) {
				pc += off
			}
		case bpfExit:
			return uint32(r[0])
		default:
			t.Fatalf("operation %#x", i[0])
		}
	}
	t.Fatal("no end")
	return 0
}

// TestKernelTakesTheDeviceProgram attaches it, which runs the kernel's verifier.
func TestKernelTakesTheDeviceProgram(t *testing.T) {
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, hy := range h.hierarchies {
		if hy.version != 2 || !hy.usable() || !h.deviceBPF {
			continue
		}
		dir := filepath.Join(hy.base, prefix+"test-bpf-"+fmt.Sprint(os.Getpid()))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Skipf("cgroup kernel test: no directory can be made in %s: %v", hy.base, err)
		}
		t.Cleanup(func() {
			if err := Remove(context.Background(), []string{dir}); err != nil {
				t.Error(err)
			}
		})
		three, one := int64(3), int64(1)
		err := attachDevices(dir, []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &one, Minor: &three, Access: "rw"}})
		if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
			t.Skipf("cgroup kernel test: no device programs in this kernel: %v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		out, _ := inside(t, []string{filepath.Join(dir, "cgroup.procs")}, "true </dev/null && echo null; true </dev/zero || echo refused").CombinedOutput()
		if s := string(out); !strings.Contains(s, "null\n") || !strings.Contains(s, "refused\n") {
			t.Errorf("inside: %q", s)
		}
		return
	}
	t.Skip("cgroup kernel test: not root of the machine, or no cgroup v2")
}

// inside runs a shell script in cgroups.
func inside(t *testing.T, procs []string, script string) *exec.Cmd {
	join := ""
	for _, p := range procs {
		join += "echo 0 > '" + p + "' || exit 9; "
	}
	return exec.CommandContext(t.Context(), "/bin/sh", "-c", join+script)
}

// TestCreateLimitKillRemove goes through a container's life on this machine's
// own hierarchies.
func TestCreateLimitKillRemove(t *testing.T) {
	h, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("test-%d", os.Getpid())
	path, err := h.Path("", id)
	if err != nil {
		t.Fatal(err)
	}
	have := h.Plan().Controllers
	if _, ok := have["pids"]; !ok || path == "" {
		t.Skipf("cgroup kernel test: no pids controller to use here (have %v)", have)
	}
	limit, mem, swap := int64(50), int64(64<<20), int64(128<<20)
	res := &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}, CPU: &specs.LinuxCPU{}}
	if _, ok := have["memory"]; ok {
		res.Memory = &specs.LinuxMemory{Limit: &mem}
		if h.Plan().Swap {
			res.Memory.Swap = &swap
		}
	}
	if _, ok := have["cpuset"]; ok {
		res.CPU.Cpus = "0"
	}
	if _, ok := have["devices"]; ok {
		one, three := int64(1), int64(3)
		res.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}, {Allow: true, Type: "c", Major: &one, Minor: &three, Access: "rwm"}}
	}
	d, warnings, err := Create(t.Context(), h, Options{ID: id, Path: path, Resources: res})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(KillAll(d.Remove), Remove(context.Background(), d.Remove)); err != nil {
			t.Error(err)
		}
	})
	if len(warnings) != 0 {
		t.Errorf("warnings: %v", warnings)
	}
	if _, _, err := Create(t.Context(), h, Options{ID: id, Path: path}); err == nil {
		t.Error("the same directory was made twice")
	}
	cmd := inside(t, d.Procs, "trap '' TERM; sleep 1000 & sleep 1000 & echo ready; wait")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "ready\n" {
		t.Fatalf("the script did not start: %q, %v", buf[:n], err)
	}
	s := Read(d.Remove)
	if s.Pids != 3 || s.PidsLimit != 50 {
		t.Errorf("stats: %+v", s)
	}
	if res.Memory != nil && (s.MemoryLimit != uint64(mem) || s.MemoryBytes == 0) {
		t.Errorf("memory: %+v", s)
	}
	if err := KillAll(d.Remove); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the script survived")
	}
	if err := Remove(t.Context(), d.Remove); err != nil {
		t.Error(err)
	}
	for _, dir := range d.Remove {
		if exists(dir) {
			t.Errorf("%s is still there", dir)
		}
	}
	if err := Remove(t.Context(), d.Remove); err != nil {
		t.Errorf("removing twice: %v", err)
	}
}

func TestNeverTouchesForeignDirectories(t *testing.T) {
	dir := t.TempDir()
	if err := KillAll([]string{dir}); err == nil {
		t.Error("KillAll took a foreign directory")
	}
	if err := Remove(t.Context(), []string{dir}); err == nil || !exists(dir) {
		t.Error("Remove took a foreign directory")
	}
	hy := &hierarchy{version: 1, base: dir, controllers: []string{"pids"}}
	if _, err := hy.mkdir("/cais-x", nil); err == nil {
		t.Error("a directory was made outside every cgroup file system")
	}
}

func BenchmarkDetect(b *testing.B) {
	for b.Loop() {
		if _, err := Detect(); err != nil {
			b.Fatal(err)
		}
	}
}

// Engines write a zero for what nobody asked for.
func TestZerosAreNoLimits(t *testing.T) {
	var zero, swappiness uint64
	var none int64
	var weight uint16
	res := specs.LinuxResources{
		CPU:     &specs.LinuxCPU{Shares: &zero, Period: &zero, Quota: &none, RealtimePeriod: &zero, RealtimeRuntime: &none, Cpus: "0"},
		Memory:  &specs.LinuxMemory{Limit: &none, Swap: &none, Reservation: &none, Swappiness: &swappiness},
		BlockIO: &specs.LinuxBlockIO{Weight: &weight},
	}
	want := &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0"}, Memory: &specs.LinuxMemory{Swappiness: &swappiness}, BlockIO: &specs.LinuxBlockIO{}}
	if got := withoutZeros(res); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if res.CPU.Shares == nil {
		t.Error("the caller's own was changed")
	}
}
