package oci

import (
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestParsePlatform(t *testing.T) {
	def := Platform{OS: "linux", Architecture: "amd64"}
	tests := []struct{ in, want string }{
		{"linux", "linux/amd64"},
		{"arm64", "linux/arm64"},
		{"linux/arm64", "linux/arm64"},
		{"linux/arm64/v8", "linux/arm64"},
		{"linux/aarch64", "linux/arm64"},
		{"Linux/x86_64", "linux/amd64"},
		{"linux/amd64/v3", "linux/amd64/v3"},
		{"linux/amd64/v1", "linux/amd64"},
		{"linux/i386", "linux/386"},
		{"linux/armhf", "linux/arm/v7"},
		{"linux/armel", "linux/arm/v6"},
		{"linux/armv7", "linux/arm/v7"},
		{"armv7l", "linux/arm/v7"},
		{"linux/arm", "linux/arm/v7"},
		{"linux/arm/6", "linux/arm/v6"},
		{"macos/arm64", "darwin/arm64"},
		{"riscv64", "linux/riscv64"},
		{"linux/sparc64", "linux/sparc64"}, // named in full, it is believed
	}
	for _, tt := range tests {
		p, err := ParsePlatform(tt.in, def)
		if err != nil || p.String() != tt.want {
			t.Errorf("ParsePlatform(%q) = %q, %v; want %q", tt.in, p, err, tt.want)
		}
	}
	for _, in := range []string{"", "/", "linux/", "linux//v7", "a/b/c/d", "pentium", "linux/ar m", "linux/é"} {
		if p, err := ParsePlatform(in, def); errs.KindOf(err) != errs.Invalid {
			t.Errorf("ParsePlatform(%q) = %q, %v; want Invalid", in, p, err)
		}
	}
}

func TestSelect(t *testing.T) {
	entry := func(platforms ...string) []Descriptor {
		var all []Descriptor
		for _, s := range platforms {
			if s == "" {
				all = append(all, Descriptor{})
				continue
			}
			p, err := ParsePlatform(s, Platform{})
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, Descriptor{Platform: &p})
		}
		return all
	}
	tests := []struct {
		name  string
		index []Descriptor
		want  string
		is    int
	}{
		{"exact", entry("linux/amd64", "linux/arm64"), "linux/arm64", 1},
		{"first of equals", entry("linux/amd64", "linux/amd64"), "linux/amd64", 0},
		{"arm v7 before v6", entry("linux/arm/v5", "linux/arm/v6", "linux/arm/v7"), "linux/arm/v7", 2},
		{"arm v7 falls back to v6", entry("linux/arm/v5", "linux/arm/v6"), "linux/arm/v7", 1},
		{"arm v6 does not run v7", entry("linux/arm/v7"), "linux/arm/v6", -1},
		{"plain arm is v7", entry("linux/arm/v6", "linux/arm"), "linux/arm/v7", 1},
		{"amd64 v3 falls back to v1", entry("linux/arm64", "linux/amd64"), "linux/amd64/v3", 1},
		{"amd64 v3 takes v2 first", entry("linux/amd64", "linux/amd64/v2"), "linux/amd64/v3", 1},
		{"amd64 does not take v2", entry("linux/amd64/v2"), "linux/amd64", -1},
		{"arm64 extension falls back", entry("linux/arm64"), "linux/arm64/v9", 0},
		{"arm64 does not take arm", entry("linux/arm/v7"), "linux/arm64", -1},
		{"another system", entry("windows/amd64", "linux/amd64"), "linux/amd64", 1},
		{"attestations have no platform of use", entry("unknown/unknown", "", "linux/amd64"), "linux/amd64", 2},
		{"unknown architectures match by name", entry("linux/sparc64"), "linux/sparc64", 0},
		{"nothing", nil, "linux/amd64", -1},
	}
	for _, tt := range tests {
		want, err := ParsePlatform(tt.want, Platform{})
		if err != nil {
			t.Fatal(err)
		}
		if got := Select(tt.index, want); got != tt.is {
			t.Errorf("%s: got %d, want %d", tt.name, got, tt.is)
		}
	}
}
