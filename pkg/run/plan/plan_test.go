package plan

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const allCaps = 1<<41 - 1

// rootHost is root on a v2 machine with everything.
func rootHost() Host {
	ctl := map[string]Controller{}
	for _, c := range []string{"memory", "cpu", "cpuset", "pids", "blkio", "devices", "freezer"} {
		ctl[c] = Controller{Version: 2}
	}
	return Host{
		Caps: allCaps, RaiseLimits: true, Kernel: Kernel{6, 12}, Arch: "amd64", CPUs: 4, Seccomp: true,
		Cgroup:  Cgroups{Unified: true, Controllers: ctl, Swap: true},
		Rlimits: map[string]Rlimit{"nofile": {1024, 4096}},
	}
}

// userHost is an ordinary user with subordinate ids and no delegation.
func userHost() Host {
	ids := []IDMap{{0, 1000, 1}, {1, 100000, 65536}}
	return Host{
		Rootless: true, InUserNS: true, UID: 1000, GID: 1000, UIDs: ids, GIDs: ids,
		Caps: allCaps, Kernel: Kernel{6, 1}, Arch: "amd64", CPUs: 2, Seccomp: true, Mqueue: true,
		Rlimits: map[string]Rlimit{"nofile": {1024, 4096}},
	}
}

const (
	passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:w:/var/www:/bin/sh\nbig:x:4294967296:1::/:\n0:x:55:55::/evil:/bin/sh\nshort:x:7\n1234:x:0:0::/:/bin/sh\n"
	group  = "root:x:0:root\nbin:x:1:root,bin\nweb:x:33:\nextra:x:44:web,bin\n"
)

func inputs() Inputs {
	return Inputs{
		ID: strings.Repeat("0123456789abcdef", 4), Rootfs: "/rootfs", HostHostname: "machine",
		Passwd: []byte(passwd), Group: []byte(group), CgroupPath: "/cais/x",
	}
}

func TestSpecGolden(t *testing.T) {
	img := oci.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin", "LANG=C"}, WorkingDir: "/srv", Volumes: map[string]struct{}{"/data": {}, "/proc": {}}}
	withVolume := inputs()
	withVolume.Volumes = map[string]Volume{"/data": {Source: "/vol/data"}}
	pids := int64(100)
	tests := []struct {
		name string
		req  Request
		host Host
	}{
		{"root", Request{}, rootHost()},
		{"rootless", Request{TTY: true, User: "web"}, userHost()},
		{"rootless-host-namespaces", Request{Network: "host", PIDMode: "host", IPCMode: "host", UTSMode: "host"}, userHost()},
		{"privileged", Request{Privileged: true, ReadOnly: true}, rootHost()},
		{"limits", Request{
			Resources: Resources{Memory: 64 << 20, NanoCPUs: 15e8, CpusetCpus: "0-1", PidsLimit: &pids, BlkioWeight: 300},
			Ulimits:   []Ulimit{{"nofile", 100, 1 << 20}}, OOMScoreAdj: 500,
		}, rootHost()},
		{"mounts", Request{Mounts: []Mount{
			{Type: "bind", Source: "/a", Target: "/x/y/z", ReadOnly: true},
			{Type: "tmpfs", Target: "/x", Options: []string{"exec", "size=1m"}},
			{Type: "bind", Source: "/b", Target: "/dev/shm", Propagation: "rslave"},
		}}, rootHost()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, warnings, err := Spec(tt.req, img, tt.host, withVolume)
			if err != nil {
				t.Fatal(err)
			}
			golden(t, tt.name, struct {
				Spec     *specs.Spec
				Warnings []Warning
			}{s, warnings})
		})
	}
}

func golden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	got = append(got, '\n')
	file := filepath.Join("testdata", name+".json")
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test -update rewrites it); got:\n%s", file, got)
	}
}

func TestCommand(t *testing.T) {
	img := oci.Config{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}}
	none, sh := []string{}, []string{"sh", "-c"}
	tests := []struct {
		name  string
		entry *[]string
		args  []string
		want  []string
		kind  errs.Kind
	}{
		{name: "image's own", want: []string{"/entry", "serve"}},
		{name: "arguments keep the entrypoint", args: []string{"x"}, want: []string{"/entry", "x"}},
		{name: "entrypoint drops cmd", entry: &sh, want: []string{"sh", "-c"}},
		{name: "both", entry: &sh, args: []string{"true"}, want: []string{"sh", "-c", "true"}},
		{name: "cleared", entry: &none, args: []string{"ls"}, want: []string{"ls"}},
		{name: "nothing left", entry: &none, kind: errs.Invalid},
		{name: "nul", args: []string{"a\x00b"}, kind: errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Command(Request{Entrypoint: tt.entry, Args: tt.args}, img)
			if errs.KindOf(err) != tt.kind || !slices.Equal(got, tt.want) {
				t.Errorf("got %q, %v; want %q, kind %v", got, err, tt.want, tt.kind)
			}
		})
	}
}

func TestEnvironment(t *testing.T) {
	img := oci.Config{Env: []string{"A=img", "B=img", "=bad", "NUL=a\x00b", "NOVALUE"}}
	tests := []struct {
		name string
		req  Request
		want []string
	}{
		{"defaults", Request{}, []string{"PATH=" + defaultPath, "HOSTNAME=h", "A=img", "B=img", "HOME=/root"}},
		{"later wins in place", Request{Env: []string{"A=1", "A=2", "HOME=/x"}}, []string{"PATH=" + defaultPath, "HOSTNAME=h", "A=2", "B=img", "HOME=/x"}},
		{"terminal", Request{TTY: true, UnsetEnv: []string{"A", "HOME"}}, []string{"PATH=" + defaultPath, "HOSTNAME=h", "TERM=xterm", "B=img"}},
		{"a name alone unsets", Request{Env: []string{"A"}}, []string{"PATH=" + defaultPath, "HOSTNAME=h", "B=img", "HOME=/root"}},
		{"unset all", Request{UnsetEnvAll: true, Env: []string{"Z="}}, []string{"Z="}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := environment(tt.req, img, "h", "/root"); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestResolveUser(t *testing.T) {
	tests := []struct {
		user  string
		add   []string
		want  identity
		error string
	}{
		{user: "", want: identity{home: "/root", groups: []uint32{1}}},
		{user: "web", want: identity{uid: 33, gid: 33, home: "/var/www", groups: []uint32{44}}},
		{user: "33", want: identity{uid: 33, gid: 33, home: "/var/www", groups: []uint32{44}}},
		{user: "web:bin", want: identity{uid: 33, gid: 1, home: "/var/www"}},
		{user: "web:", want: identity{uid: 33, gid: 33, home: "/var/www", groups: []uint32{44}}},
		{user: "1234", want: identity{uid: 1234, home: "/"}}, // not the user named "1234", who is root
		{user: "1234:5678", add: []string{"44", "web", "44"}, want: identity{uid: 1234, gid: 5678, home: "/", added: []uint32{44, 33}}},
		{user: "0", want: identity{home: "/root", groups: []uint32{1}}}, // not the user named "0"
		{user: "55", want: identity{uid: 55, gid: 55, home: "/evil"}},
		{user: "nobody", error: "unable to find user nobody: no matching entries in passwd file"},
		{user: "web:nobody", error: "unable to find group nobody: no matching entries in group file"},
		{user: "big", error: "the image's passwd entry of user big has ids out of range"},
		{user: "short", error: "unable to find user short: no matching entries in passwd file"},
		{user: "4294967296", error: "invalid id 4294967296: uids and gids must be in range 0-2147483647"},
		{user: "2147483648", error: "invalid id 2147483648: uids and gids must be in range 0-2147483647"},
		{user: "-1", error: "invalid id -1: uids and gids must be in range 0-2147483647"},
		{user: "99999999999999999999999", error: "invalid id 99999999999999999999999: uids and gids must be in range 0-2147483647"},
		{user: "1:2:3", error: `invalid user "1:2:3": want name|uid[:group|gid]`},
		{user: "web\nroot", error: `invalid user "web\nroot": want name|uid[:group|gid]`},
		{add: []string{"nogroup"}, error: "unable to find group nogroup: no matching entries in group file"},
	}
	for _, tt := range tests {
		t.Run(tt.user, func(t *testing.T) {
			got, err := resolve(tt.user, tt.add, []byte(passwd), []byte(group))
			if tt.error != "" {
				if err == nil || err.Error() != tt.error || errs.KindOf(err) != errs.Invalid {
					t.Errorf("got %v, want %s", err, tt.error)
				}
				return
			}
			if err != nil || got.uid != tt.want.uid || got.gid != tt.want.gid || got.home != tt.want.home ||
				!slices.Equal(got.groups, tt.want.groups) || !slices.Equal(got.added, tt.want.added) {
				t.Errorf("got %+v, %v; want %+v", got, err, tt.want)
			}
		})
	}
	if _, err := resolve("", nil, make([]byte, MaxUserFile+1), nil); err == nil {
		t.Error("a huge passwd file is accepted")
	}
}

// Nothing that an image says selects what a container gets of the host, or who
// watches it: its config is like one without, but for what runs.
func TestImageDataSelectsNothing(t *testing.T) {
	words := map[string]string{}
	for _, key := range []string{
		KeepGroupsAnnotation, "run.oci.hooks.stderr", "run.oci.seccomp.receiver", "module.wasm.image/variant", "io.kubernetes.cri-o.userns-mode",
		"io.podman.annotations.privileged", "io.podman.annotations.seccomp", "io.containers.autoupdate", "org.systemd.property.Delegate", "cdi.k8s.io/gpu",
		"dev.cais.runtime", "com.docker.compose.project", "devices", "volumes", "log-driver", "runtime", "hooks", "privileged", "cap-add",
	} {
		words[key] = "1"
	}
	hostile := oci.Config{Cmd: []string{"sh"}, Labels: words}
	for key := range words {
		hostile.Env = append(hostile.Env, key+"=1")
	}
	hostile.Env = append(hostile.Env, "NVIDIA_VISIBLE_DEVICES=all", "CAIS_INIT=exec", "CAIS_ROOT=/", "_CAIS_USERNS=1", "LISTEN_FDS=9", "container=x", "NOTIFY_SOCKET=/run/systemd/notify")
	for _, h := range []Host{rootHost(), userHost()} {
		want, _, err := Spec(Request{}, oci.Config{Cmd: hostile.Cmd}, h, inputs())
		if err != nil {
			t.Fatal(err)
		}
		got, warnings, err := Spec(Request{}, hostile, h, inputs())
		if err != nil {
			t.Fatal(err)
		}
		got.Process.Env = want.Process.Env
		if !reflect.DeepEqual(got, want) || len(warnings) > 0 {
			t.Errorf("got %+v %v\nwant %+v", got, warnings, want)
		}
	}
}

func TestUnmappedIDs(t *testing.T) {
	h := userHost()
	h.UIDs, h.GIDs, h.SingleID = []IDMap{{0, 1000, 1}}, []IDMap{{0, 1000, 1}}, true
	s, _, err := Spec(Request{Args: []string{"x"}}, oci.Config{}, h, inputs())
	if err != nil || !slices.Equal(s.Process.User.AdditionalGids, []uint32{0}) {
		t.Errorf("root in image groups: %v, %+v", err, s)
	}
	for _, req := range []Request{{User: "web"}, {User: "33:0"}, {User: "0:33"}, {GroupAdd: []string{"44"}}} {
		req.Args = []string{"x"}
		if _, _, err := Spec(req, oci.Config{}, h, inputs()); errs.KindOf(err) != errs.Unsupported || errs.HintOf(err) == "" {
			t.Errorf("%+v: got %v, want Unsupported with a hint", req, err)
		}
	}
}

func TestCapabilities(t *testing.T) {
	def := capList(defaultCaps)
	if len(def) != 14 {
		t.Fatalf("%d default capabilities", len(def))
	}
	noRaw := rootHost()
	noRaw.Caps &^= 1 << 13
	noDevices := rootHost()
	noDevices.Cgroup.Controllers = nil
	tests := []struct {
		name  string
		req   Request
		host  Host
		want  []string // nil: not compared
		has   string
		lacks string
		kind  errs.Kind
	}{
		{name: "default", host: rootHost(), want: def},
		{name: "drop all, add one", req: Request{CapDrop: []string{"all"}, CapAdd: []string{"net_bind_service"}}, host: rootHost(), want: []string{"CAP_NET_BIND_SERVICE"}},
		{name: "add all, drop one", req: Request{CapAdd: []string{"ALL"}, CapDrop: []string{"CAP_SYS_ADMIN"}}, host: rootHost(), has: "CAP_BPF", lacks: "CAP_SYS_ADMIN"},
		{name: "privileged", req: Request{Privileged: true}, host: noRaw, has: "CAP_SYS_ADMIN", lacks: "CAP_NET_RAW"},
		{name: "what we lack goes silently", host: noRaw, lacks: "CAP_NET_RAW"},
		{name: "unless it was named", req: Request{CapAdd: []string{"NET_RAW"}}, host: noRaw, kind: errs.Unsupported},
		{name: "unknown", req: Request{CapAdd: []string{"FLY"}}, host: rootHost(), kind: errs.Invalid},
		{name: "unknown drop", req: Request{CapDrop: []string{"FLY"}}, host: rootHost(), kind: errs.Invalid},
		{name: "no device rules", host: noDevices, lacks: "CAP_MKNOD"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Args = []string{"x"}
			s, _, err := Spec(tt.req, oci.Config{}, tt.host, inputs())
			if errs.KindOf(err) != tt.kind {
				t.Fatalf("error %v, want kind %v", err, tt.kind)
			}
			if err != nil {
				return
			}
			c := s.Process.Capabilities
			if tt.want != nil && !slices.Equal(c.Bounding, tt.want) {
				t.Errorf("got %v, want %v", c.Bounding, tt.want)
			}
			if !slices.Equal(c.Bounding, c.Effective) || !slices.Equal(c.Bounding, c.Permitted) || c.Inheritable != nil || c.Ambient != nil {
				t.Errorf("sets of root: %+v", c)
			}
			if tt.has != "" && !slices.Contains(c.Bounding, tt.has) || slices.Contains(c.Bounding, tt.lacks) {
				t.Errorf("got %v, want %s and not %s", c.Bounding, tt.has, tt.lacks)
			}
		})
	}
	s, _, err := Spec(Request{Args: []string{"x"}, User: "1"}, oci.Config{}, rootHost(), inputs())
	if err != nil || s.Process.Capabilities.Effective != nil || !slices.Equal(s.Process.Capabilities.Bounding, def) {
		t.Errorf("ordinary user: %v, %+v", err, s.Process.Capabilities)
	}
}

func TestCheckRefuses(t *testing.T) {
	n := func(v int64) *int64 { return &v }
	tests := []struct {
		req  Request
		want string
	}{
		{Request{Resources: Resources{Memory: 1 << 20}}, "Minimum memory limit allowed is 6MB"},
		{Request{Resources: Resources{Memory: 64 << 20, MemorySwap: 32 << 20}}, "Minimum memoryswap limit should be larger"},
		{Request{Resources: Resources{MemorySwap: 32 << 20}}, "You should always set the Memory limit"},
		{Request{Resources: Resources{Memory: 8 << 20, MemoryReservation: 16 << 20}}, "less than memory reservation"},
		{Request{Resources: Resources{MemorySwappiness: n(101)}}, "invalid value: 101. Valid memory swappiness range is 0-100"},
		{Request{Resources: Resources{NanoCPUs: 1e9, CPUQuota: 5000}}, "--cpus and --cpu-quota"},
		{Request{Resources: Resources{NanoCPUs: 1e9, CPUPeriod: 5000}}, "--cpus and --cpu-period"},
		{Request{Resources: Resources{CPUPeriod: 5}}, "CPU cfs period"},
		{Request{Resources: Resources{CPUQuota: 5}}, "CPU cfs quota"},
		{Request{Resources: Resources{CPUShares: -1}}, "invalid CPU shares"},
		{Request{Resources: Resources{CpusetCpus: "1-"}}, "invalid value 1- for cpuset cpus"},
		{Request{Resources: Resources{CpusetMems: "x"}}, "invalid value x for cpuset mems"},
		{Request{Resources: Resources{BlkioWeight: 5}}, "range of blkio weight"},
		{Request{Hostname: "a\n1.2.3.4 b"}, `invalid hostname "a\n1.2.3.4 b"`},
		{Request{Domainname: "a b"}, `invalid domainname "a b"`},
		{Request{OOMScoreAdj: 1001}, "range for oom score adj"},
		{Request{ShmSize: -1}, "SHM size"},
		{Request{AutoRemove: true, Restart: RestartPolicy{Name: "always"}}, "cannot specify both --restart and --rm"},
		{Request{Restart: RestartPolicy{Name: "always", Max: 3}}, "maximum retry count"},
		{Request{Restart: RestartPolicy{Name: "often"}}, "unknown policy 'often'"},
		{Request{Sysctls: map[string]string{"kernel.hostname": "x"}}, "sysctl 'kernel.hostname=x' is not allowed"},
		{Request{Sysctls: map[string]string{"net.core.x": "1"}, Network: "host"}, "not allowed with the host's network"},
		{Request{Ulimits: []Ulimit{{"files", 1, 1}}}, "invalid ulimit type: files"},
		{Request{Ulimits: []Ulimit{{"nofile", -1, 1}}}, "ulimit soft limit must be less than or equal to hard limit: unlimited > 1"},
		{Request{Mounts: []Mount{{Type: "tmpfs", Target: "/a"}, {Type: "bind", Source: "/b", Target: "/a/"}}}, "Duplicate mount point: /a"},
		{Request{Mounts: []Mount{{Type: "tmpfs", Target: "/"}}}, "destination can't be '/'"},
		{Request{Mounts: []Mount{{Type: "tmpfs", Target: "/a", Options: []string{"bogus"}}}}, `invalid tmpfs option "bogus"`},
		{Request{Mounts: []Mount{{Type: "tmpfs", Target: "a"}}}, "must be absolute"},
		{Request{PIDMode: "hosts"}, "--pid: invalid PID mode: hosts"},
		{Request{IPCMode: "container:"}, "invalid container format"},
		{Request{UTSMode: "host", Hostname: "x"}, "hostname and the UTS mode"},
		{Request{Network: "container:x", Hostname: "x"}, "hostname and the network mode"},
		{Request{DeviceCgroupRules: []string{"c 1:x rwm"}}, "invalid device cgroup format 'c 1:x rwm'"},
		{Request{DeviceCgroupRules: []string{"c 1:1 rwmx"}}, "invalid device cgroup format"},
		{Request{Devices: []Device{{"/dev/x", "/dev/x", "rr"}}}, "invalid device specification"},
	}
	for _, tt := range tests {
		err := Check(tt.req)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got %v, want %s", tt.req, err, tt.want)
		}
	}
	if err := Check(Request{}); err != nil {
		t.Errorf("the empty request: %v", err)
	}
}

func TestWhatIsMissingIsAWarningOrAnError(t *testing.T) {
	n, yes := int64(10), true
	swappiness := int64(5)
	noSwap := rootHost()
	noSwap.Cgroup.Swap = false
	tests := []struct {
		name string
		req  Request
		host Host
		want []string // flags
	}{
		{"no delegation", Request{Resources: Resources{Memory: 64 << 20, NanoCPUs: 1e9, PidsLimit: &n, CpusetCpus: "0"}}, userHost(), []string{"memory", "cpus", "cpuset-cpus", "pids-limit"}},
		{"v1 only", Request{OOMKillDisable: &yes, Resources: Resources{MemorySwappiness: &swappiness, CPURTRuntime: 5}}, rootHost(), []string{"memory-swappiness", "oom-kill-disable", "cpu-rt-runtime"}},
		{"no swap", Request{Resources: Resources{Memory: 64 << 20, MemorySwap: -1}}, noSwap, []string{"memory-swap"}},
		{"hard limit", Request{Ulimits: []Ulimit{{"nofile", 10, 1 << 20}}}, userHost(), []string{"ulimit"}},
		{"unlimited", Request{Ulimits: []Ulimit{{"nofile", -1, -1}}}, userHost(), []string{"ulimit"}},
		{"oom score", Request{OOMScoreAdj: -500}, userHost(), []string{"oom-score-adj"}},
		{"device rules", Request{DeviceCgroupRules: []string{"c 1:3 r"}}, userHost(), []string{"device-cgroup-rule"}},
		{"all is there", Request{Resources: Resources{Memory: 64 << 20}}, rootHost(), nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Args = []string{"x"}
			_, warnings, err := Spec(tt.req, oci.Config{}, tt.host, inputs())
			var flags []string
			for _, w := range warnings {
				flags = append(flags, w.Flag)
			}
			if err != nil || !slices.Equal(flags, tt.want) {
				t.Errorf("got %v, %v; want %v", warnings, err, tt.want)
			}
			tt.req.StrictLimits = true
			if _, _, err := Spec(tt.req, oci.Config{}, tt.host, inputs()); tt.want != nil && errs.KindOf(err) != errs.Unsupported {
				t.Errorf("strict: got %v, want Unsupported", err)
			}
		})
	}
	s, _, err := Spec(Request{Args: []string{"x"}, Ulimits: []Ulimit{{"nofile", 10, 1 << 20}}}, oci.Config{}, userHost(), inputs())
	if err != nil || len(s.Process.Rlimits) != 1 || s.Process.Rlimits[0] != (specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Hard: 4096, Soft: 10}) {
		t.Errorf("clamped: %v, %+v", err, s.Process.Rlimits)
	}
}

func TestSharedMemoryComesWithIPC(t *testing.T) {
	req := Request{Args: []string{"x"}, IPCMode: "container:web"}
	s, _, err := Spec(req, oci.Config{}, userHost(), Inputs{Namespaces: map[string]string{"ipc": "/proc/7/ns/ipc"}})
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" })
	if i < 0 || s.Mounts[i].Type != "bind" || s.Mounts[i].Source != "/proc/7/root/dev/shm" {
		t.Errorf("mounts %+v", s.Mounts)
	}

	// Docker's users write both, and have the host's.
	req = Request{Args: []string{"x"}, IPCMode: "host", ShmSize: 1 << 30}
	s, warnings, err := Spec(req, oci.Config{}, rootHost(), inputs())
	if err != nil || len(warnings) != 1 || warnings[0].Flag != "shm-size" {
		t.Errorf("--ipc host --shm-size 1g: %v, %v", warnings, err)
	}
	if i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" }); i < 0 || s.Mounts[i].Type != "bind" {
		t.Errorf("--ipc host --shm-size 1g: mounts %+v", s.Mounts)
	}
}

func TestJoiningContainers(t *testing.T) {
	req := Request{Args: []string{"x"}, PIDMode: "container:web", Network: "container:web"}
	in := inputs()
	if _, _, err := Spec(req, oci.Config{}, rootHost(), in); errs.KindOf(err) != errs.Conflict {
		t.Errorf("without paths: %v, want Conflict", err)
	}
	in.Namespaces = map[string]string{"pid": "/proc/7/ns/pid", "network": "/proc/7/ns/net"}
	s, _, err := Spec(req, oci.Config{}, rootHost(), in)
	if err != nil {
		t.Fatal(err)
	}
	got := map[specs.LinuxNamespaceType]string{}
	for _, n := range s.Linux.Namespaces {
		got[n.Type] = n.Path
	}
	if got["pid"] != "/proc/7/ns/pid" || got["network"] != "/proc/7/ns/net" || len(s.Linux.Sysctl) != 0 {
		t.Errorf("got %v, sysctls %v", got, s.Linux.Sysctl)
	}
}

func TestDevices(t *testing.T) {
	in := inputs()
	in.Devices = map[string][]DeviceNode{
		"/dev/snd":  {{Path: "/dev/snd/a", Major: 116, Minor: 1, Mode: 0o660}, {Path: "/dev/snd/b", Major: 116, Minor: 2}},
		"/dev/fuse": {{Path: "/dev/fuse", Major: 10, Minor: 229}},
	}
	req := Request{Args: []string{"x"}, Devices: []Device{{"/dev/snd", "/dev/sound", "rw"}, {"/dev/fuse", "/dev/fuse", "r"}}}
	s, _, err := Spec(req, oci.Config{}, rootHost(), in)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, d := range s.Linux.Devices {
		paths = append(paths, d.Path)
	}
	if want := []string{"/dev/sound/a", "/dev/sound/b", "/dev/fuse"}; !slices.Equal(paths, want) {
		t.Errorf("devices %v, want %v", paths, want)
	}
	last := s.Linux.Resources.Devices[len(s.Linux.Resources.Devices)-1]
	if !last.Allow || *last.Major != 10 || last.Access != "r" {
		t.Errorf("last rule %+v", last)
	}

	s, _, err = Spec(req, oci.Config{}, userHost(), in)
	if err != nil || len(s.Linux.Devices) != 0 {
		t.Fatalf("rootless: %v, %+v", err, s)
	}
	i := slices.IndexFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/fuse" })
	if i < 0 || s.Mounts[i].Type != "bind" || !slices.Contains(s.Mounts[i].Options, "ro") || slices.Contains(s.Mounts[i].Options, "nodev") {
		t.Errorf("rootless /dev/fuse: %+v", s.Mounts)
	}
	req.Devices = []Device{{"/dev/none", "/dev/none", "rwm"}}
	if _, _, err := Spec(req, oci.Config{}, rootHost(), in); errs.KindOf(err) != errs.Invalid {
		t.Errorf("missing device: %v", err)
	}
}

func TestPaths(t *testing.T) {
	host := rootHost()
	host.Throttle = []string{"/sys/devices/system/cpu/cpu0/thermal_throttle"}
	spec := func(sec Security) *specs.Linux {
		s, _, err := Spec(Request{Args: []string{"x"}, Security: sec}, oci.Config{}, host, inputs())
		if err != nil {
			t.Fatal(err)
		}
		return s.Linux
	}
	l := spec(Security{})
	if len(l.MaskedPaths) != 13 || len(l.ReadonlyPaths) != 5 {
		t.Errorf("default: %v, %v", l.MaskedPaths, l.ReadonlyPaths)
	}
	l = spec(Security{Unmask: []string{"/proc/keys", "/proc/sys"}, Mask: []string{"/x"}})
	if slices.Contains(l.MaskedPaths, "/proc/keys") || slices.Contains(l.ReadonlyPaths, "/proc/sys") || !slices.Contains(l.MaskedPaths, "/x") {
		t.Errorf("changed: %v, %v", l.MaskedPaths, l.ReadonlyPaths)
	}
	for _, sec := range []Security{{Unmask: []string{"all"}}, {SystemPaths: "unconfined"}} {
		if l = spec(sec); len(l.MaskedPaths)+len(l.ReadonlyPaths) != 0 {
			t.Errorf("%+v: %v, %v", sec, l.MaskedPaths, l.ReadonlyPaths)
		}
	}
}

func TestSharedIPCWithoutMqueue(t *testing.T) {
	h := userHost()
	h.Mqueue = false
	s, _, err := Spec(Request{Args: []string{"x"}, IPCMode: "host"}, oci.Config{}, h, inputs())
	if err != nil || slices.ContainsFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/mqueue" }) {
		t.Errorf("%v: %+v", err, s.Mounts)
	}
}

func TestRelabel(t *testing.T) {
	req := Request{Args: []string{"x"}, Mounts: []Mount{{Type: "bind", Source: "/a", Target: "/b", Options: []string{"Z"}}}}
	if _, _, err := Spec(req, oci.Config{}, rootHost(), inputs()); err != nil {
		t.Error(err)
	}
	h := rootHost()
	h.SELinux = true
	if _, _, err := Spec(req, oci.Config{}, h, inputs()); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("with SELinux: %v", err)
	}
}

func TestContiguous(t *testing.T) {
	tests := []struct {
		m    []IDMap
		want uint32
	}{
		{nil, maxID},
		{[]IDMap{{0, 1000, 1}}, 0},
		{[]IDMap{{1, 100000, 65536}, {0, 1000, 1}}, 65536},
		{[]IDMap{{0, 1000, 1}, {10, 5, 5}}, 0},
		{[]IDMap{{0, 0, 4294967295}}, maxID},
	}
	for _, tt := range tests {
		if got := contiguous(tt.m); got != tt.want {
			t.Errorf("%v: got %d, want %d", tt.m, got, tt.want)
		}
	}
}

func TestExec(t *testing.T) {
	req := Request{Args: []string{"x"}, Env: []string{"A=1"}, Workdir: "/w", CapDrop: []string{"NET_RAW"}}
	s, _, err := Spec(req, oci.Config{}, rootHost(), inputs())
	if err != nil {
		t.Fatal(err)
	}
	c := Container{Spec: s, Request: req}
	tests := []struct {
		name string
		req  ExecRequest
		ok   func(p *specs.Process) bool
		kind errs.Kind
	}{
		{name: "inherits", req: ExecRequest{}, ok: func(p *specs.Process) bool {
			return p.Cwd == "/w" && slices.Contains(p.Env, "A=1") && !slices.Contains(p.Env, "TERM=xterm") &&
				slices.Equal(p.Capabilities.Effective, s.Process.Capabilities.Effective)
		}},
		{name: "environment", req: ExecRequest{Env: []string{"A=2"}, TTY: true}, ok: func(p *specs.Process) bool {
			return slices.Contains(p.Env, "A=2") && !slices.Contains(p.Env, "A=1") && slices.Contains(p.Env, "TERM=xterm") && p.Terminal
		}},
		{name: "user", req: ExecRequest{User: "web"}, ok: func(p *specs.Process) bool {
			return p.User.UID == 33 && slices.Contains(p.Env, "HOME=/var/www") && p.Capabilities.Effective == nil && len(p.Capabilities.Bounding) == 13
		}},
		{name: "privileged", req: ExecRequest{Privileged: true}, ok: func(p *specs.Process) bool { return len(p.Capabilities.Effective) == 41 }},
		{name: "directory", req: ExecRequest{Workdir: "rel"}, kind: errs.Invalid},
		{name: "unknown user", req: ExecRequest{User: "nobody"}, kind: errs.Invalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.req.Args = []string{"y"}
			p, err := Exec(c, tt.req, rootHost(), inputs())
			if errs.KindOf(err) != tt.kind {
				t.Fatalf("got %v, want kind %v", err, tt.kind)
			}
			if err == nil && !tt.ok(p) {
				t.Errorf("got %+v, caps %+v", p, p.Capabilities)
			}
		})
	}
	if slices.Contains(s.Process.Env, "A=2") || s.Process.Terminal {
		t.Error("Exec changed the container's spec")
	}
}

func FuzzResolve(f *testing.F) {
	f.Add("web:bin", []byte(passwd), []byte(group))
	f.Fuzz(func(t *testing.T, user string, passwd, group []byte) {
		id, err := resolve(user, nil, passwd, group)
		if err == nil && (id.uid > maxID || id.gid > maxID || strings.IndexByte(id.home, 0) >= 0) {
			t.Errorf("%q: %+v", user, id)
		}
	})
}
