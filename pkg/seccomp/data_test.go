package seccomp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
)

// TestProfileIsThePublishedOne compares the checked-in profile with the module
// it was made from.
func TestProfileIsThePublishedOne(t *testing.T) {
	var want bytes.Buffer
	enc := json.NewEncoder(&want)
	enc.SetIndent("", "\t")
	if err := enc.Encode(moby.DefaultProfile()); err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile("default.json", want.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if defaultProfile != want.String() {
		t.Error("default.json is out of date: go test -update, and then again for the filters")
	}
}

// TestCallNumbers compares the table with x/sys's.
func TestCallNumbers(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "golang.org/x/sys").Output()
	dir := strings.TrimSpace(string(out))
	if err != nil || dir == "" {
		t.Skipf("no source of golang.org/x/sys to compare with: %v", err)
	}
	columns := []string{"amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "loong64"}
	rows := map[string][]string{}
	set := func(name string, column int, nr string) {
		if rows[name] == nil {
			rows[name] = slices.Repeat([]string{"-"}, len(columns))
		}
		rows[name][column] = nr
	}
	for i, goarch := range columns {
		text, err := os.ReadFile(filepath.Join(dir, "unix", "zsysnum_linux_"+goarch+".go"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			f := strings.Fields(line)
			if len(f) == 3 && strings.HasPrefix(f[0], "SYS_") && f[1] == "=" {
				set(strings.ToLower(f[0][len("SYS_"):]), i, f[2])
			}
		}
	}
	// arm's own calls, from asm/unistd.h; x/sys leaves them out.
	for i, name := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls"} {
		set(name, slices.Index(columns, "arm"), fmt.Sprint(privateCalls+1+i))
	}
	var want strings.Builder
	fmt.Fprintln(&want, "# name", strings.Join(columns, " "))
	names := make([]string, 0, len(rows))
	for n := range rows {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		fmt.Fprintln(&want, n, strings.Join(rows[n], " "))
	}
	if *update {
		if err := os.WriteFile("syscalls.txt", []byte(want.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if syscallTable != want.String() {
		t.Error("syscalls.txt is out of date: go test -update")
	}
}
