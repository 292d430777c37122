package seccomp

import (
	"encoding/binary"
	"flag"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

var update = flag.Bool("update", false, "rewrite the tables, the default profile and its filters")

// dockerCaps are Docker's default capabilities.
var dockerCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func defaults(goarch string) Options {
	return Options{Caps: dockerCaps, Arch: goarch, Major: 6, Minor: 1}
}

// call is struct seccomp_data, as far as filters look.
type call struct {
	nr, arch uint32
	args     [6]uint64
}

// run interprets a filter as the kernel does.
func run(t *testing.T, code []byte, c call) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.LittleEndian.PutUint32(data[0:], c.nr)
	binary.LittleEndian.PutUint32(data[4:], c.arch)
	for i, a := range c.args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var acc uint32
	for pc := 0; 8*pc < len(code); pc++ {
		i := code[8*pc:]
		k := binary.LittleEndian.Uint32(i[4:])
		cond := false
		switch op := binary.LittleEndian.Uint16(i); op {
		case opLoad:
			acc = binary.LittleEndian.Uint32(data[k:])
			continue
		case opAnd:
			acc &= k
			continue
		case opJump:
			pc += int(k)
			continue
		case opRet:
			return k
		case opJeq:
			cond = acc == k
		case opJgt:
			cond = acc > k
		case opJge:
			cond = acc >= k
		default:
			t.Fatalf("instruction %d: unknown operation %#x", pc, op)
		}
		if cond {
			pc += int(i[2])
		} else {
			pc += int(i[3])
		}
	}
	t.Fatalf("%+v: the filter has no end", c)
	return 0
}

// judge says what a profile means, from its text and nothing that the compiler
// made of it.
func judge(p *Profile, o Options, c call) uint32 {
	native := archOf(o.Arch)
	var a *arch
	for _, x := range p.arches(native) {
		if x.audit == c.arch {
			a = x
		}
	}
	if a == nil {
		return retKillProcess
	}
	if a.goarch == "amd64" && c.nr >= x32Bit {
		return retErrno | eNOSYS
	}
	def, _ := action(p.DefaultAction, p.DefaultErrnoRet, p.DefaultErrno)
	rules, _ := p.rules(o, native)
	mentioned, newest, some := false, uint32(0), false
	for _, r := range p.Syscalls {
		for _, n := range r.Names {
			if nr, ok := a.number(n); ok && nr < privateCalls {
				newest, some = max(newest, nr), true
			}
		}
	}
	var plain []uint32
	for _, r := range rules {
		if !slices.ContainsFunc(r.Names, func(n string) bool { nr, ok := a.number(n); return ok && nr == c.nr }) {
			continue
		}
		mentioned = true
		ret, _ := action(r.Action, r.ErrnoRet, r.Errno)
		if len(r.Args) == 0 {
			plain = append(plain, ret)
			continue
		}
		all, any, repeated := true, false, false
		indexes := map[uint]bool{}
		for _, arg := range r.Args {
			repeated = repeated || indexes[arg.Index]
			indexes[arg.Index] = true
			ok := holds(a, arg, c.args[arg.Index])
			all, any = all && ok, any || ok
		}
		if all || repeated && any {
			return ret
		}
	}
	if len(plain) > 0 {
		return slices.MinFunc(plain, func(x, y uint32) int { return int(severity(x)>>16) - int(severity(y)>>16) })
	}
	if !mentioned && some && c.nr > newest && !permissive(def) {
		return retErrno | eNOSYS
	}
	return def
}

func holds(a *arch, arg Arg, v uint64) bool {
	want, two := arg.Value, arg.ValueTwo
	if a.bits32 {
		v, want, two = uint64(uint32(v)), uint64(uint32(want)), uint64(uint32(two))
	}
	switch arg.Op {
	case "SCMP_CMP_EQ":
		return v == want
	case "SCMP_CMP_NE":
		return v != want
	case "SCMP_CMP_LT":
		return v < want
	case "SCMP_CMP_LE":
		return v <= want
	case "SCMP_CMP_GT":
		return v > want
	case "SCMP_CMP_GE":
		return v >= want
	}
	return v&want == two
}

// compare runs random calls through filter and profile.
func compare(t *testing.T, p *Profile, o Options, rng *rand.Rand, n int) {
	t.Helper()
	f, err := Compile(p, o)
	if err != nil {
		t.Fatal(err)
	}
	values := []uint64{0, 1, 2, 8, 0x7e020000, 0xffffffff, 1 << 32, 1<<64 - 1}
	for _, r := range p.Syscalls {
		for _, a := range r.Args {
			values = append(values, a.Value, a.Value-1, a.Value+1, a.ValueTwo, a.Value^1<<40, a.Value<<32)
		}
	}
	audits := []uint32{archOf(o.Arch).audit, archOf(o.Arch).audit, 0x12345678}
	for _, s := range archOf(o.Arch).subs() {
		audits = append(audits, s.audit)
	}
	for i := range n {
		c := call{nr: rng.Uint32N(600), arch: audits[rng.IntN(len(audits))]}
		if i < 600 {
			c.nr = uint32(i)
		}
		if i%50 == 0 {
			c.nr = []uint32{0, 1 << 30, 1<<30 + 5, 1<<32 - 1, privateCalls + 1, rng.Uint32()}[rng.IntN(6)]
		}
		for j := range c.args {
			c.args[j] = values[rng.IntN(len(values))]
			if rng.IntN(8) == 0 {
				c.args[j] = rng.Uint64()
			}
		}
		if got, want := run(t, f.Code, c), judge(p, o, c); got != want {
			t.Fatalf("%+v: the filter answers %#x, the profile says %#x", c, got, want)
		}
	}
}

func TestDefaultFilterMeansTheProfile(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	p, err := Parse([]byte(defaultProfile))
	if err != nil {
		t.Fatal(err)
	}
	for _, goarch := range []string{"amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "loong64"} {
		for _, caps := range [][]string{dockerCaps, nil, {"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_BPF", "CAP_SYS_PTRACE"}} {
			compare(t, p, Options{Caps: caps, Arch: goarch, Major: 6, Minor: 1}, rng, 1500)
		}
	}
	compare(t, p, Options{Arch: "amd64", Major: 4, Minor: 4}, rng, 5000)
}

// TestRandomProfiles draws profiles that use every operator and action, with
// rules that overlap.
func TestRandomProfiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	names := make([]string, 0, 600)
	for n := range numbers() {
		names = append(names, n)
	}
	slices.Sort(names)
	actions := []string{"SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP", "SCMP_ACT_TRACE", "SCMP_ACT_LOG"}
	ops := []string{"SCMP_CMP_EQ", "SCMP_CMP_NE", "SCMP_CMP_LT", "SCMP_CMP_LE", "SCMP_CMP_GT", "SCMP_CMP_GE", "SCMP_CMP_MASKED_EQ"}
	for range 60 {
		p := &Profile{DefaultAction: actions[rng.IntN(len(actions))]}
		if rng.IntN(2) == 0 {
			p.Architectures = []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}
		}
		few := make([]string, 20)
		for i := range few {
			few[i] = names[rng.IntN(len(names))]
		}
		for range rng.IntN(30) {
			r := &Rule{Action: actions[rng.IntN(len(actions))]}
			if rng.IntN(3) == 0 {
				n := rng.Uint32N(4096)
				r.ErrnoRet = &n
			}
			for range 1 + rng.IntN(5) {
				r.Names = append(r.Names, few[rng.IntN(len(few))])
			}
			for range max(0, rng.IntN(8)-3) {
				v := rng.Uint64() >> rng.IntN(64)
				r.Args = append(r.Args, Arg{Index: uint(rng.IntN(6)), Value: v, ValueTwo: v & rng.Uint64(), Op: ops[rng.IntN(len(ops))]})
			}
			p.Syscalls = append(p.Syscalls, r)
		}
		compare(t, p, defaults("amd64"), rng, 1500)
	}
}

// TestDefaultAnswers holds the answers that matter, in plain numbers.
func TestDefaultAnswers(t *testing.T) {
	const x86_64, i386, eperm, enosys = 0xc000003e, 0x40000003, retErrno | ePERM, retErrno | eNOSYS
	f, err := Load("", defaults("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		what string
		call call
		want uint32
	}{
		{"read", call{nr: 0, arch: x86_64}, retAllow},
		{"execve", call{nr: 59, arch: x86_64}, retAllow},
		{"close_range", call{nr: 436, arch: x86_64}, retAllow},
		{"mount", call{nr: 165, arch: x86_64}, eperm},
		{"io_uring_setup", call{nr: 425, arch: x86_64}, eperm},
		{"keyctl", call{nr: 250, arch: x86_64}, eperm},
		{"clone3", call{nr: 435, arch: x86_64}, enosys},
		{"clone, plain", call{nr: 56, arch: x86_64, args: [6]uint64{0x11}}, retAllow},
		{"clone, new user namespace", call{nr: 56, arch: x86_64, args: [6]uint64{0x10000000}}, eperm},
		{"socket inet", call{nr: 41, arch: x86_64, args: [6]uint64{2}}, retAllow},
		{"socket AF_ALG", call{nr: 41, arch: x86_64, args: [6]uint64{38}}, eperm},
		{"socket AF_VSOCK", call{nr: 41, arch: x86_64, args: [6]uint64{40}}, eperm},
		{"socketcall of 32 bits", call{nr: 102, arch: i386}, retAllow},
		{"socket AF_ALG of 32 bits", call{nr: 359, arch: i386, args: [6]uint64{38}}, eperm},
		{"cachestat", call{nr: 451, arch: x86_64}, retAllow},
		{"newer than the profile", call{nr: 5000, arch: x86_64}, enosys},
		{"x32", call{nr: x32Bit, arch: x86_64}, enosys},
		{"another architecture", call{nr: 0, arch: 0xc00000b7}, retKillProcess},
	}
	for _, tt := range tests {
		if got := run(t, f.Code, tt.call); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.what, got, tt.want)
		}
	}
}

func TestLoad(t *testing.T) {
	if f, err := Load("unconfined", defaults("amd64")); err != nil || len(f.Code) != 0 {
		t.Errorf("unconfined: %d bytes, %v", len(f.Code), err)
	}
	admin := defaults("amd64")
	admin.Caps = append(slices.Clone(admin.Caps), "CAP_SYS_ADMIN")
	f, err := Load("", admin)
	if err != nil || run(t, f.Code, call{nr: 165, arch: 0xc000003e}) != retAllow {
		t.Errorf("mount with CAP_SYS_ADMIN: %v", err)
	}
	if _, err := Load("", defaults("s390x")); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("s390x: %v", err)
	}
	podman := `{"defaultAction":"SCMP_ACT_ERRNO","defaultErrno":"ENOSYS","archMap":[],"syscalls":[
		{"names":["read"],"action":"SCMP_ACT_ALLOW"},{"name":"write","action":"SCMP_ACT_ERRNO","errno":"EROFS"}]}`
	f, err = Load(podman, defaults("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	for nr, want := range map[uint32]uint32{0: retAllow, 1: retErrno | 30, 2: retErrno | eNOSYS} {
		if got := run(t, f.Code, call{nr: nr, arch: 0xc000003e}); got != want {
			t.Errorf("call %d: got %#x, want %#x", nr, got, want)
		}
	}
	if f.Flags != flagSpecAllow {
		t.Errorf("flags %#x", f.Flags)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		`{`, `{}`, `[]`, `{"defaultAction":"SCMP_ACT_WAVE"}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[null]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"name":"write","action":"SCMP_ACT_KILL"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":6,"op":"SCMP_CMP_EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","args":[{"index":0,"op":"EQ"}]}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errno":"EWHAT"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_ERRNO","errnoRet":70000}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_NOTIFY"}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["read"],"action":"SCMP_ACT_KILL","includes":{"minKernel":"new"}}]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_WAVE"]}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","listenerPath":"/x"}`,
		`{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86"],"archMap":[{"architecture":"SCMP_ARCH_X86_64"}]}`,
	} {
		if p, err := Parse([]byte(text)); err == nil {
			t.Errorf("%s: accepted as %+v", text, p)
		}
	}
}

func TestErrnoNames(t *testing.T) {
	for name, want := range map[string]uint32{"EPERM": 1, "ENOSYS": 38, "enomsg": 42, "EPROTO": 71, "EOPNOTSUPP": 95, "EHWPOISON": 133, "5": 5} {
		if got, err := errnoOf(name); err != nil || got != want {
			t.Errorf("%s: got %d, %v; want %d", name, got, err, want)
		}
	}
	if _, err := errnoOf("-"); err == nil {
		t.Error("a gap has a name")
	}
}

// TestRelevantCaps: the shortcut to the embedded filter must know every
// capability that the profile asks for.
func TestRelevantCaps(t *testing.T) {
	p, err := Parse([]byte(defaultProfile))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range p.Syscalls {
		for _, c := range slices.Concat(r.Includes.Caps, r.Excludes.Caps) {
			with := append(slices.Clone(dockerCaps), c)
			if c != "CAP_SYS_CHROOT" && sameAsDefault(with) {
				t.Errorf("%s changes the default filter, and is not in sameAsDefault", c)
			}
		}
		if v := r.Includes.MinKernel; v != "" && v != "4.8" {
			t.Errorf("the profile asks for Linux %s; the embedded filters are for 4.8 and newer", v)
		}
	}
	if !sameAsDefault(dockerCaps) || sameAsDefault(nil) {
		t.Error("the default set is misjudged")
	}
}

func TestEmbeddedFilters(t *testing.T) {
	p, err := Parse([]byte(defaultProfile))
	if err != nil {
		t.Fatal(err)
	}
	for goarch, have := range map[string]string{"amd64": defaultAMD64, "arm64": defaultARM64} {
		f, err := Compile(p, defaults(goarch))
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %d instructions", goarch, len(f.Code)/8)
		if *update {
			if err := os.WriteFile("default_"+goarch+".bpf", f.Code, 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if string(f.Code) != have {
			t.Errorf("default_%s.bpf is out of date: go test -update", goarch)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultProfile)
	f.Add(`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW","args":[{"index":1,"value":5,"op":"SCMP_CMP_GE"}]}]}`)
	rng := rand.New(rand.NewPCG(5, 6))
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse([]byte(text))
		if err != nil || strings.Count(text, "index") > 50 {
			return
		}
		if _, err := Compile(p, defaults("amd64")); err == nil {
			compare(t, p, defaults("amd64"), rng, 700)
		}
	})
}

func BenchmarkCompileDefault(b *testing.B) {
	o := defaults("amd64")
	o.Caps = append(slices.Clone(o.Caps), "CAP_SYS_ADMIN")
	for b.Loop() {
		if _, err := Load("", o); err != nil {
			b.Fatal(err)
		}
	}
}
