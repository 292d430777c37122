package oci

import (
	"runtime"
	"strings"
)

// ParsePlatform reads "os[/arch[/variant]]", or a lone architecture, with the
// aliases people use (x86_64, aarch64, armhf…), into normal form. What is left
// out comes from def, usually this machine's.
func ParsePlatform(s string, def Platform) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, func(r rune) bool {
			return r > 127 || !isAlnum(byte(r)) && r != '_' && r != '-' && r != '.'
		}) {
			return Platform{}, invalid("invalid platform %q: want os[/arch[/variant]], such as linux/arm64", s)
		}
	}
	// An OS may carry its version in containerd's form, "windows(10.0.1)": not
	// accepted here, for cais runs Linux only.
	switch len(parts) {
	case 1:
		if os := normalOS(parts[0]); isOS(os) {
			p := def
			p.OS = os
			return p.Normalize(), nil
		}
		arch := Platform{OS: def.OS, Architecture: parts[0]}.Normalize()
		if !isArch(arch.Architecture) {
			return Platform{}, invalid("invalid platform %q: unknown operating system or architecture", s)
		}
		return arch, nil
	case 2:
		return Platform{OS: parts[0], Architecture: parts[1]}.Normalize(), nil
	case 3:
		return Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}.Normalize(), nil
	}
	return Platform{}, invalid("invalid platform %q: want os[/arch[/variant]], such as linux/arm64", s)
}

// HostPlatform returns what this program was built for, which is what the
// machine runs: linux on the program's architecture.
func HostPlatform() Platform {
	return Platform{OS: "linux", Architecture: runtime.GOARCH}.Normalize()
}

// String returns "linux/arm/v7".
func (p Platform) String() string {
	s := p.OS
	if p.Architecture != "" {
		s += "/" + p.Architecture
	}
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Normalize returns p with Go's names, lower case, and without the variant that
// an architecture has anyway: arm64/v8, amd64/v1. 32-bit arm is v7 unless it
// says otherwise.
func (p Platform) Normalize() Platform {
	p.OS = normalOS(p.OS)
	p.Architecture = strings.ToLower(p.Architecture)
	p.Variant = strings.ToLower(p.Variant)
	switch p.Architecture {
	case "x86_64", "x86-64", "amd64":
		p.Architecture = "amd64"
		if p.Variant == "v1" {
			p.Variant = ""
		}
	case "i386", "i486", "i586", "i686", "386":
		p.Architecture, p.Variant = "386", ""
	case "aarch64", "arm64":
		p.Architecture = "arm64"
		if p.Variant == "8" || p.Variant == "v8" {
			p.Variant = ""
		}
	case "armhf":
		p.Architecture, p.Variant = "arm", "v7"
	case "armel":
		p.Architecture, p.Variant = "arm", "v6"
	case "armv5", "armv6", "armv7", "armv8":
		p.Architecture, p.Variant = "arm", p.Architecture[3:]
	case "armv7l", "armv6l":
		p.Architecture, p.Variant = "arm", p.Architecture[3:5]
	case "arm":
		switch p.Variant {
		case "":
			p.Variant = "v7"
		case "5", "6", "7", "8":
			p.Variant = "v" + p.Variant
		}
	case "mips64el":
		p.Architecture = "mips64le"
	case "mipsel":
		p.Architecture = "mipsle"
	case "loong64", "loongarch64":
		p.Architecture = "loong64"
	}
	return p
}

// Select returns the index of the entry that suits want best, or -1: the same
// architecture and, of the variants that such a machine runs, the highest. The
// order of the entries decides between equals. Entries without a platform
// (attestations say "unknown") are never chosen.
func Select(entries []Descriptor, want Platform) int {
	want = want.Normalize()
	for _, variant := range variants(want) {
		for i, e := range entries {
			if e.Platform == nil {
				continue
			}
			got := e.Platform.Normalize()
			if got.OS == want.OS && got.Architecture == want.Architecture && got.Variant == variant &&
				(want.OSVersion == "" || want.OSVersion == got.OSVersion) {
				return i
			}
		}
	}
	return -1
}

// Runs reports whether an image for img runs on a machine like p.
func (p Platform) Runs(img Platform) bool {
	return Select([]Descriptor{{Platform: &img}}, p) == 0
}

// variants lists what a machine like p runs of its architecture, best first.
// Each level of amd64 and of arm includes those below it; a 64-bit arm's
// numbers above 8 are extensions of 8.
func variants(p Platform) []string {
	var order []string
	switch p.Architecture {
	case "amd64":
		order = []string{"v4", "v3", "v2", ""}
	case "arm":
		order = []string{"v8", "v7", "v6", "v5"}
	case "arm64":
		if p.Variant != "" {
			return []string{p.Variant, ""}
		}
	}
	for i, v := range order {
		if v == p.Variant {
			return order[i:]
		}
	}
	return []string{p.Variant}
}

func normalOS(s string) string {
	if s = strings.ToLower(s); s == "macos" {
		return "darwin"
	}
	return s
}

func isOS(s string) bool {
	switch s {
	case "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "dragonfly", "solaris", "illumos",
		"android", "aix", "plan9", "js", "wasip1", "wasi":
		return true
	}
	return false
}

func isArch(s string) bool {
	switch s {
	case "386", "amd64", "arm", "arm64", "loong64", "mips", "mipsle", "mips64", "mips64le",
		"ppc64", "ppc64le", "riscv64", "s390x", "wasm":
		return true
	}
	return false
}
