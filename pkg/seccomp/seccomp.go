// Package seccomp turns a profile, in Docker's or the OCI's JSON, into the
// kernel's filter program.
//
// A filter is a tree per architecture: check the architecture, then find the
// call's number by halving, in ranges that share an answer; calls whose answer
// depends on arguments have their comparisons at the leaf. Loading costs what
// the kernel spends on checking and translating the program, so fewer, shorter
// paths are worth more than fewer instructions.
package seccomp

import (
	_ "embed" // the default profile and its compiled filters
	"encoding/binary"
	"fmt"
	"slices"

	"cais.dev/cais/pkg/errs"
)

// Filter is what the kernel loads.
type Filter struct {
	Code  []byte // struct sock_filter, one after another, in this machine's byte order
	Flags uint32 // SECCOMP_FILTER_FLAG_*
}

// Options say for what a profile is compiled: its rules depend on them.
type Options struct {
	Caps         []string // the container's bounding set: "CAP_SYS_ADMIN"
	Arch         string   // GOARCH
	Major, Minor int      // the kernel's version
}

// The default profile as moby publishes it (Apache-2.0), and its filters for
// Docker's default capabilities on Linux 4.8 and newer. `go test -update` makes
// all three; a test compares them with the published data.
//
//go:embed default.json
var defaultProfile string

//go:embed default_amd64.bpf
var defaultAMD64 string

//go:embed default_arm64.bpf
var defaultARM64 string

// Load returns the filter for a profile as Request.Security.Seccomp has it: ""
// is the default profile, "unconfined" none (an empty filter), anything else
// the profile's JSON. The default profile with Docker's default capabilities
// is compiled already.
func Load(profile string, o Options) (Filter, error) {
	switch profile {
	case "unconfined":
		return Filter{}, nil
	case "":
		if code := precompiled(o); code != "" {
			return Filter{Code: []byte(code), Flags: flagSpecAllow}, nil
		}
		profile = defaultProfile
	}
	p, err := Parse([]byte(profile))
	if err != nil {
		return Filter{}, err
	}
	return Compile(p, o)
}

// precompiled returns the embedded filter if it is the one for o.
func precompiled(o Options) string {
	if o.Major < 4 || o.Major == 4 && o.Minor < 8 || !sameAsDefault(o.Caps) {
		return ""
	}
	switch o.Arch {
	case "amd64":
		return defaultAMD64
	case "arm64":
		return defaultARM64
	}
	return ""
}

// sameAsDefault says whether the default profile answers caps as it does
// Docker's default set. It asks only for some capabilities, and of these the
// default set holds CAP_SYS_CHROOT alone.
func sameAsDefault(caps []string) bool {
	chroot := false
	for _, c := range caps {
		switch c {
		case "CAP_SYS_CHROOT":
			chroot = true
		case "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_PTRACE",
			"CAP_SYS_RAWIO", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_SYS_NICE", "CAP_SYSLOG", "CAP_BPF", "CAP_PERFMON":
			return false
		}
	}
	return chroot
}

// Compile returns the filter that carries p out for o.
func Compile(p *Profile, o Options) (Filter, error) {
	flags, err := p.flags()
	if err != nil {
		return Filter{}, err
	}
	native := archOf(o.Arch)
	if native == nil {
		return Filter{}, errs.New(errs.Unsupported, fmt.Sprintf("seccomp profiles are not supported on %s yet", o.Arch))
	}
	def, err := action(p.DefaultAction, p.DefaultErrnoRet, p.DefaultErrno)
	if err != nil {
		return Filter{}, err
	}
	rules, err := p.rules(o, native)
	if err != nil {
		return Filter{}, err
	}
	code := []insn{{op: opLoad, k: offArch}}
	for _, a := range p.arches(native) {
		tree, err := a.tree(p, rules, def)
		if err != nil {
			return Filter{}, err
		}
		code = append(code, skipUnless(a.audit, len(tree))...)
		code = append(code, tree...)
	}
	// Another architecture's calls: nobody has said what they may do.
	code = append(code, insn{op: opRet, k: retKillProcess})
	if len(code) > maxInsns {
		return Filter{}, errs.New(errs.Invalid, fmt.Sprintf("the seccomp profile needs %d instructions; the kernel takes %d", len(code), maxInsns))
	}
	return Filter{Code: assemble(code), Flags: flags}, nil
}

// assemble lays instructions out as the kernel reads them. All supported
// architectures are little-endian.
func assemble(code []insn) []byte {
	out := make([]byte, 0, 8*len(code))
	for _, i := range code {
		out = binary.LittleEndian.AppendUint16(out, i.op)
		out = append(out, i.jt, i.jf)
		out = binary.LittleEndian.AppendUint32(out, i.k)
	}
	return out
}

// arches returns what the filter lets in: the native architecture, and those of
// its sub-architectures that the profile lists and we know.
func (p *Profile) arches(native *arch) []*arch {
	list := []*arch{native}
	names := slices.Clone(p.Architectures)
	for _, m := range p.ArchMap {
		if m.Architecture == native.token {
			names = append(names, m.SubArchitectures...)
		}
	}
	for _, n := range names {
		for _, a := range native.subs() {
			if a.token == n && !slices.Contains(list, a) {
				list = append(list, a)
			}
		}
	}
	return list
}
