package lower

import (
	"strings"
	"testing"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/test/golden"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestListing compares whole plans with files: go test -update rewrites them,
// and the diff says what a change does.
func TestListing(t *testing.T) {
	for name, change := range map[string]func(*container){
		"default": func(*container) {},
		"rootless": func(c *container) {
			c.o.InUserNS, c.o.Rootless, c.o.Overlay.UserXattr, c.o.OuterProc = true, true, true, true
		},
		"everything": func(c *container) {
			c.o.Init, c.spec.Process.Terminal, c.spec.Process.NoNewPrivileges = true, true, true
			c.spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{5}}
			c.o.Seccomp = bpf([4]uint32{0x06, 0, 0, 0x7fff0000})
			c.spec.Linux.Namespaces[1].Path = "/proc/77/ns/net"
			c.spec.Linux.Namespaces[0].Path = "/proc/77/ns/pid"
			c.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 10, Hard: 20}}
			c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/srv", Options: []string{"rbind", "rslave", "ro", "rro"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := newContainer(t, "sh")
			c.o.InUserNS, c.o.SingleID = false, false
			c.o.Overlay.UserXattr = false
			change(c)
			c.o.Cgroups = []CgroupMount{{Name: "memory", Source: "/sys/fs/cgroup/memory/c"}, {Name: "cpu,cpuacct", Source: "/sys/fs/cgroup/cpu,cpuacct/c"}, {Name: "cpu", Link: "cpu,cpuacct"}}
			c.o.CgroupProcs = []string{"/sys/fs/cgroup/memory/c/cgroup.procs"}
			p, err := Run(c.spec, c.o)
			if err != nil {
				t.Fatal(err)
			}
			golden.Text(t, "testdata/"+name+".txt", strings.ReplaceAll(List(p), c.dir, "/C"))
		})
	}
	t.Run("exec", func(t *testing.T) {
		c := newContainer(t, "sh")
		p, err := Exec(c.spec, c.spec.Process, ExecOptions{CgroupProcs: []string{"/sys/fs/cgroup/c/cgroup.procs"}})
		if err != nil {
			t.Fatal(err)
		}
		golden.Text(t, "testdata/exec.txt", List(p))
	})
}

func TestCgroupView(t *testing.T) {
	all := func(string) bool { return true }
	v2 := "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
	hybrid := "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n" +
		"32 30 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n33 30 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n" +
		"34 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	own := "4:memory:/m\n3:cpu,cpuacct:/\n2:name=systemd:/s\n0::/u\n"
	tests := []struct {
		name, mounts string
		procs        []string
		want         []CgroupMount
	}{
		{"v2", v2, []string{"/sys/fs/cgroup/a/c/cgroup.procs"}, []CgroupMount{{Source: "/sys/fs/cgroup/a/c"}}},
		{"v2 without one", v2, nil, []CgroupMount{{Source: "/sys/fs/cgroup/u", Shared: true}}},
		{"hybrid", hybrid, []string{"/sys/fs/cgroup/cpu,cpuacct/c/cgroup.procs"}, []CgroupMount{
			{Name: "unified", Source: "/sys/fs/cgroup/unified/u", Shared: true}, {Name: "cpu,cpuacct", Source: "/sys/fs/cgroup/cpu,cpuacct/c"},
			{Name: "memory", Source: "/sys/fs/cgroup/memory/m", Shared: true}, {Name: "systemd", Source: "/sys/fs/cgroup/systemd/s", Shared: true},
			{Name: "cpu", Link: "cpu,cpuacct"}, {Name: "cpuacct", Link: "cpu,cpuacct"}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := cgroupView(tt.mounts, own, tt.procs, all)
			if len(got) != len(tt.want) {
				t.Fatalf("got %+v, want %+v", got, tt.want)
			}
			for i := range got {
				if got[i] != tt.want[i] {
					t.Errorf("got %+v, want %+v", got[i], tt.want[i])
				}
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no command":            func(s *specs.Spec) { s.Process.Args = nil },
		"relative directory":    func(s *specs.Spec) { s.Process.Cwd = "x" },
		"no mount namespace":    func(s *specs.Spec) { s.Linux.Namespaces = nil },
		"host name of the host": func(s *specs.Spec) { s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "mount"}} },
		"namespace twice":       func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[0]) },
		"unknown limit":         func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_X"}} },
		"soft above hard":       func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Soft: 2, Hard: 1}} },
		"NUL in an argument":    func(s *specs.Spec) { s.Process.Args = []string{"a\x00b"} },
	} {
		c := newContainer(t, "sh")
		change(c.spec)
		if _, err := Run(c.spec, c.o); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// BenchmarkRun is a whole container: clone to the reaped busybox.
func BenchmarkRun(b *testing.B) {
	c := newContainer(b, "/bin/true")
	c.o.Seccomp = bpf([4]uint32{0x06, 0, 0, 0x7fff0000})
	p, err := Run(c.spec, c.o)
	if err != nil {
		b.Fatal(err)
	}
	blob := p.Marshal()
	b.ReportMetric(float64(len(p.Steps)), "steps")
	b.ReportMetric(float64(len(blob)), "bytes")
	for b.Loop() {
		p, err := wire.UnmarshalPlan(blob)
		if err != nil {
			b.Fatal(err)
		}
		pr, err := launch.Start(p, noSlots())
		if err != nil {
			b.Fatal(err)
		}
		if err := pr.Release(); err != nil {
			b.Fatal(err)
		}
		wait(b, pr.PID)
		b.StopTimer()
		pr.Close() // what the monitor does after it has told the exit
		b.StartTimer()
	}
}

func BenchmarkLower(b *testing.B) {
	c := newContainer(b, "/bin/true")
	for b.Loop() {
		p, err := Run(c.spec, c.o)
		if err != nil {
			b.Fatal(err)
		}
		p.Marshal()
	}
}
