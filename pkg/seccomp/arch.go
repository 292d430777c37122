package seccomp

import (
	_ "embed" // the table of call numbers
	"strconv"
	"strings"
	"sync"
)

// arch is an architecture whose calls a filter can judge.
type arch struct {
	goarch, name, token string // Go's, moby's and libseccomp's names for it
	column              int    // of the table of call numbers
	audit               uint32 // AUDIT_ARCH_*, from linux/audit.h
	bits32              bool
}

// archOf returns the architecture with Go's name; nil if we do not know it.
// Only little-endian ones are here: s390x swaps the halves of an argument.
func archOf(goarch string) *arch {
	for _, a := range archTable() {
		if a.goarch == goarch {
			return a
		}
	}
	return nil
}

var archTable = sync.OnceValue(func() []*arch {
	return []*arch{
		{"amd64", "amd64", "SCMP_ARCH_X86_64", 1, 0xc000003e, false},
		{"386", "x86", "SCMP_ARCH_X86", 2, 0x40000003, true},
		{"arm64", "arm64", "SCMP_ARCH_AARCH64", 3, 0xc00000b7, false},
		{"arm", "arm", "SCMP_ARCH_ARM", 4, 0x40000028, true},
		{"riscv64", "riscv64", "SCMP_ARCH_RISCV64", 5, 0xc00000f3, false},
		{"ppc64le", "ppc64le", "SCMP_ARCH_PPC64LE", 6, 0xc0000015, false},
		{"loong64", "loongarch64", "SCMP_ARCH_LOONGARCH64", 7, 0xc0000102, false},
	}
})

// subs are the architectures whose programs a machine also runs. x32 is not
// among them: its calls have a range of numbers of their own under amd64's
// architecture, which is refused.
func (a *arch) subs() []*arch {
	switch a.goarch {
	case "amd64":
		return []*arch{archOf("386")}
	case "arm64":
		return []*arch{archOf("arm")}
	}
	return nil
}

// number returns the number of a call here.
func (a *arch) number(name string) (uint32, bool) {
	row, ok := numbers()[name]
	if !ok || row[a.column-1] < 0 {
		return 0, false
	}
	return uint32(row[a.column-1]), true
}

// syscalls.txt has a line for each call: its name and its number on each
// architecture, "-" where it has none. `go test -update` makes it.
//
//go:embed syscalls.txt
var syscallTable string

var numbers = sync.OnceValue(func() map[string][7]int32 {
	m := make(map[string][7]int32, 600)
	for line := range strings.Lines(syscallTable) {
		f := strings.Fields(line)
		if len(f) != 8 {
			continue
		}
		var row [7]int32
		for i, s := range f[1:] {
			n, err := strconv.ParseInt(s, 10, 32)
			if err != nil {
				n = -1
			}
			row[i] = int32(n)
		}
		m[f[0]] = row
	}
	return m
})
