package flags

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"github.com/spf13/pflag"
)

// parse reads a command line of run, with an image and a command behind it.
func parse(t *testing.T, run bool, args ...string) (plan.Request, RunOptions, error) {
	t.Helper()
	fs := pflag.NewFlagSet("run", pflag.ContinueOnError)
	fs.SetInterspersed(false)
	f := Run(fs, run)
	if err := fs.Parse(append(args, "image", "cmd", "-x")); err != nil {
		return plan.Request{}, RunOptions{}, errs.E("", errs.Invalid, err)
	}
	vars := map[string]string{"FROM": "caller", "HOME": "/home/me"}
	return f.Request(fs.Args(), Env{
		LookupEnv: func(k string) (string, bool) { v, ok := vars[k]; return v, ok },
		Dir:       "/work/dir", Home: "/home/me",
	})
}

func TestDefaults(t *testing.T) {
	r, o, err := parse(t, true)
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Request{Args: []string{"cmd", "-x"}, AttachStdout: true, AttachStderr: true, Restart: plan.RestartPolicy{Name: "no"}}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v\nwant %+v", r, want)
	}
	if !reflect.DeepEqual(o, RunOptions{SigProxy: true, Pull: "missing"}) {
		t.Errorf("options %+v", o)
	}
}

func TestFlags(t *testing.T) {
	tests := []struct {
		args string
		ok   func(r plan.Request, o RunOptions) bool
	}{
		{"-it", func(r plan.Request, _ RunOptions) bool { return r.TTY && r.OpenStdin && r.AttachStdin && r.StdinOnce }},
		{"-dit", func(r plan.Request, o RunOptions) bool {
			return o.Detach && r.OpenStdin && !r.AttachStdout && !r.StdinOnce
		}},
		{"-a STDOUT -a stdin", func(r plan.Request, o RunOptions) bool { return r.AttachStdin && r.AttachStdout && !r.AttachStderr }},
		{"-h box --domainname example.org", func(r plan.Request, _ RunOptions) bool { return r.Hostname == "box" && r.Domainname == "example.org" }},
		{"-e A=1 -e FROM -e NONE -e B=", func(r plan.Request, _ RunOptions) bool {
			return slices.Equal(r.Env, []string{"A=1", "FROM=caller", "NONE", "B="})
		}},
		{"-l a=b -l c", func(r plan.Request, _ RunOptions) bool {
			return reflect.DeepEqual(r.Labels, map[string]string{"a": "b", "c": ""})
		}},
		{"--entrypoint=", func(r plan.Request, _ RunOptions) bool { return r.Entrypoint != nil && len(*r.Entrypoint) == 0 }},
		{"--entrypoint sh", func(r plan.Request, _ RunOptions) bool { return slices.Equal(*r.Entrypoint, []string{"sh"}) }},
		{`--entrypoint ["sh","-c"]`, func(r plan.Request, _ RunOptions) bool { return slices.Equal(*r.Entrypoint, []string{"sh", "-c"}) }},
		{"--entrypoint [broken", func(r plan.Request, _ RunOptions) bool { return slices.Equal(*r.Entrypoint, []string{"[broken"}) }},
		{"-m 64m --memory-swap -1 --cpus 1.5 --pids-limit -1", func(r plan.Request, _ RunOptions) bool {
			x := r.Resources
			return x.Memory == 64<<20 && x.MemorySwap == -1 && x.NanoCPUs == 15e8 && *x.PidsLimit == -1
		}},
		{"--device-read-bps /dev/sda:1mb --device-write-iops /dev/sda:10 --blkio-weight-device /dev/sda:500", func(r plan.Request, _ RunOptions) bool {
			x := r.Resources
			return x.ReadBPS[0] == plan.Rate{Path: "/dev/sda", Rate: 1 << 20} && x.WriteIOPS[0].Rate == 10 && x.BlkioWeightDevice[0].Weight == 500
		}},
		{"--ulimit nofile=1:2 --ulimit nofile=5 --ulimit host --ulimit core=-1", func(r plan.Request, _ RunOptions) bool {
			return slices.Equal(r.Ulimits, []plan.Ulimit{{Name: "nofile", Soft: 5, Hard: 5}, {Name: "core", Soft: -1, Hard: -1}})
		}},
		{"--device /dev/fuse --device /dev/a:/dev/b --device /dev/c:rw --device /dev/d:/dev/e:m", func(r plan.Request, _ RunOptions) bool {
			return slices.Equal(r.Devices, []plan.Device{
				{Host: "/dev/fuse", Container: "/dev/fuse", Perms: "rwm"}, {Host: "/dev/a", Container: "/dev/b", Perms: "rwm"},
				{Host: "/dev/c", Container: "/dev/c", Perms: "rw"}, {Host: "/dev/d", Container: "/dev/e", Perms: "m"},
			})
		}},
		{"--sysctl net.core.somaxconn=5", func(r plan.Request, _ RunOptions) bool { return r.Sysctls["net.core.somaxconn"] == "5" }},
		{"--restart on-failure:3", func(r plan.Request, _ RunOptions) bool {
			return r.Restart == plan.RestartPolicy{Name: "on-failure", Max: 3}
		}},
		{"--restart never", func(r plan.Request, _ RunOptions) bool { return r.Restart.Name == "no" }},
		{"--net host", func(r plan.Request, _ RunOptions) bool { return r.Network == "host" }},
		{"--network default", func(r plan.Request, _ RunOptions) bool { return r.Network == "" }},
		{"--network container:web", func(r plan.Request, _ RunOptions) bool { return r.Network == "container:web" }},
		{"--security-opt no-new-privileges --security-opt seccomp=unconfined --security-opt label:disable --security-opt systempaths=unconfined", func(r plan.Request, _ RunOptions) bool {
			s := r.Security
			return s.NoNewPrivileges && s.Seccomp == "unconfined" && s.Label[0] == "disable" && s.SystemPaths == "unconfined" && len(r.SecurityOpt) == 4
		}},
		{"--security-opt no-new-privileges:false --security-opt seccomp=builtin --security-opt unmask=/proc/keys:/proc/acpi", func(r plan.Request, _ RunOptions) bool {
			return !r.Security.NoNewPrivileges && r.Security.Seccomp == "" && len(r.Security.Unmask) == 2
		}},
		{"--stop-timeout 0 --stop-signal INT --timeout 5", func(r plan.Request, _ RunOptions) bool {
			return *r.StopTimeout == 0 && r.StopSignal == "INT" && r.Timeout == 5
		}},
		{"--log-driver none", func(r plan.Request, _ RunOptions) bool { return r.LogDriver == "none" }},
		{"--log-opt max-size=1m --log-opt max-file=3 --log-opt compress=false", func(r plan.Request, _ RunOptions) bool { return r.LogOpts["max-size"] == "1m" }},
		{"--platform linux/arm64", func(r plan.Request, o RunOptions) bool {
			return o.Platform == "linux/arm64" && r.Platform == o.Platform
		}},
		{"--arch arm64", func(_ plan.Request, o RunOptions) bool { return o.Platform == "linux/arm64" }},
		{"--cidfile id --name /web", func(r plan.Request, o RunOptions) bool { return r.CIDFile == "/work/dir/id" && o.Name == "web" }},
		{"--oom-kill-disable --memory-swappiness 5", func(r plan.Request, _ RunOptions) bool {
			return *r.OOMKillDisable && *r.Resources.MemorySwappiness == 5
		}},
		{"--kernel-memory 5m --disable-content-trust --no-healthcheck --isolation default", func(plan.Request, RunOptions) bool { return true }},
		{"--http-proxy=false", func(plan.Request, RunOptions) bool { return true }},
		{"--tls-verify=false", func(_ plan.Request, o RunOptions) bool { return o.TLSVerify != nil && !*o.TLSVerify }},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r, o, err := parse(t, true, strings.Fields(tt.args)...)
			if err != nil {
				t.Fatal(err)
			}
			if !tt.ok(r, o) {
				t.Errorf("got %+v\n%+v", r, o)
			}
		})
	}
}

func TestFlagMistakes(t *testing.T) {
	tests := []struct{ args, want string }{
		{"--nope", "unknown flag: --nope"},
		{"-m 1m", "Minimum memory limit allowed is 6MB"},
		{"-m lots", `invalid argument "lots" for "-m, --memory" flag: invalid size: 'lots'`},
		{"--cpus x", `failed to parse "x" as a rational number`},
		{"--cpus 0.0000000001", "value is too precise"},
		{"--restart often", "unknown policy 'often'"},
		{"--restart on-failure:x", "maximum retry count must be an integer"},
		{"--rm --restart always", "cannot specify both --restart and --rm"},
		{"-e =x", "invalid environment variable: =x"},
		{"-l =x", "invalid label '=x': empty name"},
		{"-w rel", ""},
		{"--cap-add FLY", `unknown capability: "CAP_FLY"`},
		{"--sysctl kernel.hostname=x", "sysctl 'kernel.hostname=x' is not allowed"},
		{"--ulimit files=1", "invalid ulimit type: files"},
		{"--ulimit nofile=2:1", "soft limit must be less than or equal to hard limit"},
		{"--device dev/x", "not an absolute path"},
		{"--device /dev/x:/dev/y:q", "bad mode specified: q"},
		{"--security-opt bogus", `invalid --security-opt: "bogus"`},
		{"--security-opt no-new-privileges=maybe", "invalid --security-opt"},
		{"--security-opt seccomp=/there/is/no/such", "opening seccomp profile"},
		{"--pull sometimes", "invalid pull option: 'sometimes'"},
		{"--platform a/b/c/d", ""},
		{"--log-driver bogus", "unknown log driver: bogus"},
		{"--log-driver none --log-opt max-size=1m", "invalid logging opts for driver none"},
		{"--log-opt bogus=1", "unknown log opt 'bogus'"},
		{"--log-opt max-file=0", "max-file"},
		{"--log-opt mode=sometimes", "logging mode not supported: sometimes"},
		{"--log-opt max-buffer-size=1m", "only supported with 'mode=non-blocking'"},
		{"--log-opt max-buffer-size=x --log-opt mode=non-blocking", "max-buffer-size"},
		{"--name -x", ""},
		{"--rmi --rm=false", "--rmi removes the container first"},
		{"--health-interval often", `invalid duration "often"`},
		{"--stop-signal NOPE", ""},
		{"-a nowhere", "valid streams are STDIN, STDOUT and STDERR"},
		{"-h a/b", "invalid hostname format"},
		{"--uts host -h x", "hostname and the UTS mode"},
		{"--pid nonsense", "invalid PID mode: nonsense"},
		{"--blkio-weight-device x", "bad format: x"},
		{"--device-read-bps /dev/sda:x", "invalid rate for device"},
		{"--isolation hyperv", "invalid isolation"},
		{"--gpus some", `count must be an integer or "all", not "some"`},
		{"--gpus 2,device=0", "cannot set both Count and DeviceIDs"},
		{"--device v.com=x", `invalid device "v.com=x"`},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			r, _, err := parse(t, true, strings.Fields(tt.args)...)
			if tt.args == "-w rel" {
				return // the plan's, which knows the image
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v (%+v), want %q", err, r, tt.want)
			}
		})
	}
}

func TestLaterFlagsFailByName(t *testing.T) {
	for args, want := range map[string]string{
		"--gpus all,options=a": "--gpus options=a is not supported",
		"--gpus driver=intel":  "--gpus driver=intel is not supported",
		"--log-driver gelf":    "--log-driver gelf is not supported",
		"--mount type=image,src=a,dst=/b,image-subpath=../c": "subpath must be a relative path within the image: ../c",
		"--mount type=volume,src=a,dst=/b,image-subpath=c":   "cannot mix 'image-*' options with mount type 'volume'",
		"--mount type=bind,src=/a,dst=/b,subpath=c":          "unexpected key 'subpath' for mount type 'bind'",
		"--pod x": "--pod is not supported yet",
	} {
		_, _, err := parse(t, true, strings.Fields(args)...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}

func TestGPUs(t *testing.T) {
	for args, want := range map[string][]string{
		"--gpus all":                             {"nvidia.com/gpu=all"},
		"--gpus 2":                               {"nvidia.com/gpu=0", "nvidia.com/gpu=1"},
		`--gpus "device=0,GPU-1",capabilities=x`: {"nvidia.com/gpu=0", "nvidia.com/gpu=GPU-1"},
		"--gpus driver=amd,count=-1":             {"amd.com/gpu=all"},
		"--gpus capabilities=utility":            {"nvidia.com/gpu=all"},
		"--device v.com/c=x --device /dev/null":  {"v.com/c=x"},
	} {
		r, _, err := parse(t, true, strings.Fields(args)...)
		if err != nil || !slices.Equal(r.CDI, want) {
			t.Errorf("%s: %q, %v; want %q", args, r.CDI, err, want)
		}
	}
}

func TestCreateHasNoDetach(t *testing.T) {
	for _, arg := range []string{"-d", "--detach-keys=a", "--sig-proxy=false"} {
		if _, _, err := parse(t, false, arg); err == nil || !strings.Contains(err.Error(), "unknown") {
			t.Errorf("create %s: %v", arg, err)
		}
	}
}

func TestVolume(t *testing.T) {
	env := Env{Dir: "/work/dir", Home: "/home/me"}
	tests := []struct {
		in   string
		want plan.Mount
		err  string
	}{
		{in: "/x", want: plan.Mount{Type: "volume", Target: "/x", Flag: "v"}},
		{in: "/a:/b", want: plan.Mount{Type: "bind", Source: "/a", Target: "/b", CreateSrc: true, Flag: "v", Raw: "/a:/b"}},
		{in: "./a/../c:/b:ro,Z,rslave,cached", want: plan.Mount{Type: "bind", Source: "/work/dir/c", Target: "/b", ReadOnly: true, Options: []string{"Z"}, Propagation: "rslave", CreateSrc: true, Flag: "v", Raw: "./a/../c:/b:ro,Z,rslave,cached"}},
		{in: ".:/b:noexec", want: plan.Mount{Type: "bind", Source: "/work/dir", Target: "/b", Options: []string{"noexec"}, CreateSrc: true, Flag: "v", Raw: ".:/b:noexec"}},
		{in: "/a:/b:rbind", want: plan.Mount{Type: "bind", Source: "/a", Target: "/b", CreateSrc: true, Flag: "v", Raw: "/a:/b:rbind"}},
		{in: "/a:/b:bind", want: plan.Mount{Type: "bind", Source: "/a", Target: "/b", CreateSrc: true, Recursive: "disabled", Flag: "v", Raw: "/a:/b:bind"}},
		{in: "/a:/b:bind,rbind", err: "invalid mode: bind,rbind"},
		{in: "/a:b", err: "mount path must be absolute"},
		{in: "./b", want: plan.Mount{Type: "volume", Target: "/b", Flag: "v"}},
		{in: "/a:/b:", err: "empty section between colons"},
		{in: ":/b", err: "empty section between colons"},
		{in: "", err: "invalid empty volume spec"},
		{in: "/a:/b:ro:x", err: "too many colons"},
		{in: "/a:/b:ro,rw", err: "invalid mode: ro,rw"},
		{in: "/a:/b:bogus", err: "invalid mode: bogus"},
		{in: "/a:/b:nocopy", err: "invalid mode: nocopy"},
		{in: "~/a:/b", err: "~ is the shell's"},
	}
	for _, tt := range tests {
		got, err := Volume(tt.in, env)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %v, want %s", tt.in, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestMount(t *testing.T) {
	env := Env{Dir: "/work/dir"}
	tests := []struct {
		in   string
		want plan.Mount
		err  string
	}{
		{in: "dst=/x", want: plan.Mount{Type: "volume", Target: "/x"}},
		{in: "type=bind,src=a,target=/b,readonly", want: plan.Mount{Type: "bind", Source: "/work/dir/a", Target: "/b", ReadOnly: true}},
		{in: `type=bind,"src=/a,b",dst=/b,ro=false,bind-propagation=rshared,bind-create-src`, want: plan.Mount{Type: "bind", Source: "/a,b", Target: "/b", Propagation: "rshared", CreateSrc: true}},
		{in: "type=bind,src=/a,dst=/b,rw=false", want: plan.Mount{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true}},
		{in: "dst=/x,rw", want: plan.Mount{Type: "volume", Target: "/x"}},
		{in: "type=image,src=a,dst=/x,rw=true", err: "a mount of an image is for reading only"},
		{in: "type=bind,src=/a,dst=/b,ro,bind-recursive=writable", want: plan.Mount{Type: "bind", Source: "/a", Target: "/b", ReadOnly: true, Recursive: "writable"}},
		{in: "type=bind,src=/a,dst=/b,bind-recursive=writable", err: "requires 'readonly'"},
		{in: "type=bind,src=/a,dst=/b,ro,bind-recursive=readonly", err: "requires 'bind-propagation=rprivate'"},
		{in: "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1770", want: plan.Mount{Type: "tmpfs", Target: "/t", Options: []string{"size=1048576", "mode=1770"}}},
		{in: "type=tmpfs,dst=/t,notmpcopyup", want: plan.Mount{Type: "tmpfs", Target: "/t"}},
		{in: "type=volume,dst=/t,notmpcopyup", err: "cannot mix 'tmpfs-*'"},
		{in: "type=tmpfs,dst=/t,src=/a", err: "field Source must not be specified"},
		{in: "type=bind,dst=/t", err: "field Source must not be empty"},
		{in: "type=bind,src=/a", err: "field Target must not be empty"},
		{in: "type=bind,src=/a,dst=/b,tmpfs-size=1m", err: "cannot mix 'tmpfs-*' options with mount type 'bind'"},
		{in: "type=tmpfs,dst=/t,bind-propagation=rslave", err: "cannot mix 'bind-*'"},
		{in: "type=bind,bogus,dst=/t", err: "invalid field 'bogus' must be a key=value pair"},
		{in: "type=bind,bogus=1,dst=/t", err: "unexpected key 'bogus'"},
		{in: "type=wave,dst=/t", err: `mount type unknown: "wave"`},
		{in: "type=tmpfs,dst=/t,tmpfs-mode=9", err: "invalid value for tmpfs-mode: 9"},
		{in: "type=bind,src=/a,dst=/t,ro=perhaps", err: "invalid value for ro: perhaps"},
		{in: `type=bind,"src=/a`, err: "invalid argument"},
	}
	for _, tt := range tests {
		got, err := parseMount(tt.in, env)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: got %+v, %v; want %s", tt.in, got, err, tt.err)
			}
			continue
		}
		tt.want.Flag, tt.want.Raw = "mount", tt.in
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", tt.in, got, err, tt.want)
		}
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	envFile := file("env", "\ufeff# comment\n\n  A=1 # kept\r\nFROM\nNONE\nQ=\"x\"\nE=\n")
	r, _, err := parse(t, true, "--env-file", envFile, "-e", "A=2", "--label-file", file("labels", "a=b\nc\n"), "-l", "a=z")
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"A=1 # kept", "FROM=caller", `Q="x"`, "E=", "A=2"}; !slices.Equal(r.Env, want) {
		t.Errorf("env %q, want %q", r.Env, want)
	}
	vars, err := Environment([]string{"http_proxy=flag"}, []string{file("proxy", "http_proxy=file")}, Env{Proxies: []string{"http_proxy=config"}})
	if want := []string{"http_proxy=file", "http_proxy=config", "http_proxy=flag"}; err != nil || !slices.Equal(vars, want) {
		t.Errorf("env %q, %v, want %q", vars, err, want)
	}
	if want := map[string]string{"a": "z", "c": ""}; !reflect.DeepEqual(r.Labels, want) {
		t.Errorf("labels %v, want %v", r.Labels, want)
	}
	r, _, err = parse(t, true, "--dotenv", file(".env", `export A="x\n$FROM ${A1}\$"
B='$FROM # all'
C= plain # comment
D=${C}/$UNSET
E=
`))
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"A=x\ncaller $", "B=$FROM # all", "C=plain", "D=plain/", "E="}; !slices.Equal(r.Env, want) {
		t.Errorf("dotenv %q, want %q", r.Env, want)
	}
	for name, text := range map[string]string{"space": "A B=1\n", "empty": "=1\n", "utf8": "A=\xff\n", "nul": "A=\x00\n"} {
		if _, _, err := parse(t, true, "--env-file", file(name, text)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := parse(t, true, "--env-file", filepath.Join(dir, "none")); errs.KindOf(err) != errs.Invalid {
		t.Errorf("missing file: %v", err)
	}
	for _, text := range []string{"A", "A='x", `A="x`, `A="x" y`, "A B=1"} {
		if _, _, err := parse(t, true, "--dotenv", file("bad", text)); err == nil {
			t.Errorf("dotenv %q is accepted", text)
		}
	}
	profile := file("seccomp.json", `{"defaultAction":"SCMP_ACT_ALLOW"}`)
	if r, _, err = parse(t, true, "--security-opt", "seccomp="+profile); err != nil || !strings.Contains(r.Security.Seccomp, "defaultAction") {
		t.Errorf("seccomp file: %v", err)
	}
	if _, _, err = parse(t, true, "--security-opt", "seccomp="+file("bad.json", `{"defaultAction":"NO"}`)); err == nil {
		t.Error("a bad seccomp file is accepted")
	}
}

func FuzzMount(f *testing.F) {
	f.Add("type=bind,src=/a,dst=/b,ro")
	f.Add(`type=tmpfs,"dst=/t"`)
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseMount(s, Env{Dir: "/d"})
		if err == nil && (!strings.HasPrefix(m.Target, "/") || m.Type == "bind" && !strings.HasPrefix(m.Source, "/")) {
			t.Errorf("%q: %+v", s, m)
		}
	})
}

func FuzzVolume(f *testing.F) {
	f.Add("/a:/b:ro,Z")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := Volume(s, Env{Dir: "/d"})
		if err == nil && (!strings.HasPrefix(m.Target, "/") || m.Type == "bind" && !strings.HasPrefix(m.Source, "/")) {
			t.Errorf("%q: %+v", s, m)
		}
	})
}

// What podman's mount options become.
func TestOwnerAndOverlayOptions(t *testing.T) {
	for text, want := range map[string][]string{
		"/a:/b:U":    {"U"},
		"/a:/b:O":    {"O"},
		"/a:/b:O,ro": {"O"},
		"vol:/b:U":   {"U"},
	} {
		m, err := Volume(text, Env{})
		if err != nil || !slices.Equal(m.Options, want) {
			t.Errorf("%s: %v, %v", text, m.Options, err)
		}
	}
	for text, want := range map[string][]string{
		"type=bind,src=/a,dst=/b,U":                 {"U"},
		"type=bind,src=/a,dst=/b,chown=true":        {"U"},
		"type=volume,src=vol,dst=/b,u=false":        nil,
		"type=bind,src=/a,dst=/b,relabel=private":   {"Z"},
		"type=volume,src=vol,dst=/b,relabel=shared": {"z"},
	} {
		m, err := parseMount(text, Env{})
		if err != nil || !slices.Equal(m.Options, want) {
			t.Errorf("%s: %v, %v", text, m.Options, err)
		}
	}
	if _, err := Volume("vol:/b:O", Env{}); err == nil {
		t.Error("a volume with O was accepted")
	}
}
