// Package ociconf runs the validation programs of OCI runtime-tools against
// `cais oci` and against crun, and compares what a container sees under cais, crun
// and runc. It is a module of its own: the programs want old versions of modules
// that cais uses, too.
//
// It needs root and Debian's crun and runc. crun refuses a host that has cgroup v1
// and v2 both with controllers, so it runs where the v2 tree is hidden.
package ociconf

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const validation = "github.com/opencontainers/runtime-tools/validation/"

// excused are the failing lines of programs that crun passes or that both fail,
// with the reason. A line that is not here must not fail unless it fails under crun.
var excused = map[string]string{
	"pidfile: create with '--pid-file' option works": "the program waits until `true` is running, which it is for a moment only, and then kills it, which is an error for a stopped one; crun sends the signal to a zombie if nobody has reaped it",

	"start: `start` operation MUST generate an error if `process` was not set": "the program wants the opposite of what it says",
	"start: timeout in waiting for the container status":                       "what follows from it: the container was not started, and waits on",
}

// needs finds what the tests want, or skips.
func needs(t *testing.T) (cais, crun, runc string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	cais = os.Getenv("CAIS_E2E_BIN")
	if cais == "" {
		cais = "../../bin/cais"
	}
	abs, err := filepath.Abs(cais)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(abs); err != nil {
		t.Fatalf("%v (make build)", err)
	}
	if crun, err = exec.LookPath("crun"); err != nil {
		t.Skip("crun is not installed")
	}
	if runc, err = exec.LookPath("runc"); err != nil {
		if runc, err = exec.LookPath("/usr/sbin/runc"); err != nil {
			t.Skip("runc is not installed")
		}
	}
	link := filepath.Join(t.TempDir(), "cais-oci") // by this name it is the runtime
	if err := os.Symlink(abs, link); err != nil {
		t.Fatal(err)
	}
	return link, crun, runc
}

// hidden wraps a command into a mount namespace without the v2 tree of a hybrid host
// and with a null device of its own: crun gives its stdin to the container's user, also
// if that is the machine's /dev/null.
func hidden(ctx context.Context, args ...string) *exec.Cmd {
	script := `mountpoint -q /sys/fs/cgroup/unified && umount /sys/fs/cgroup/unified
d=$(mktemp -d) && mount -t tmpfs tmpfs "$d" && mknod -m 666 "$d/null" c 1 3 && mount --bind "$d/null" /dev/null && umount -l "$d" && rmdir "$d" || exit
exec "$@"`
	return exec.CommandContext(ctx, "unshare", append([]string{"-m", "sh", "-c", script, "sh"}, args...)...)
}

// result is what one program said.
type result struct {
	failed []string // descriptions of its lines that are "not ok", with how often
	passed int
	err    error
	output string
}

func allOf(list []string, f func(string) bool) bool {
	return !slices.ContainsFunc(list, func(s string) bool { return !f(s) })
}

func (r result) good() bool { return len(r.failed) == 0 && r.err == nil }

func run(t *testing.T, dir, program, rt string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := hidden(ctx, program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+rt, "TMPDIR="+dir)
	var out bytes.Buffer
	cmd.Stdin = strings.NewReader("") // see view
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a container that it left has our output open
	}
	r := result{err: err, output: out.String()}
	for line := range strings.Lines(out.String()) {
		if rest, bad := strings.CutPrefix(line, "not ok "); bad {
			_, what, _ := strings.Cut(strings.TrimSpace(rest), " - ")
			r.failed = append(r.failed, what)
		} else if strings.HasPrefix(line, "ok ") {
			r.passed++
		}
	}
	return r
}

func TestValidation(t *testing.T) {
	cais, crun, _ := needs(t)
	bin := build(t)
	tools := source(t, "github.com/opencontainers/runtime-tools")
	programs, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	only := os.Getenv("OCI_ONLY")
	whole, lines := 0, 0
	for _, p := range programs {
		name := p.Name()
		if name == "runtimetest" || only != "" && name != only {
			continue
		}
		t.Run(name, func(t *testing.T) {
			var got [2]result
			for i, rt := range []string{cais, crun} {
				dir := t.TempDir()
				copyFile(t, filepath.Join(tools, "rootfs-"+runtime.GOARCH+".tar.gz"), dir)
				copyFile(t, filepath.Join(bin, "runtimetest"), dir)
				got[i] = run(t, dir, filepath.Join(bin, name), rt)
				clean(t, rt)
			}
			ours, theirs := got[0], got[1]
			lines += ours.passed
			if ours.good() {
				whole++
				return
			}
			excuse := func(f string) bool { return excused[name+": "+f] != "" }
			if theirs.good() && (ours.err != nil || !allOf(ours.failed, excuse)) {
				t.Errorf("crun passes it: %v %q\n%s", ours.err, ours.failed, ours.output)
				return
			}
			left := slices.Clone(theirs.failed)
			for _, f := range ours.failed {
				if i := slices.Index(left, f); i >= 0 {
					left = slices.Delete(left, i, i+1)
					continue
				}
				if why := excused[name+": "+f]; why != "" {
					t.Logf("fails, as expected: %s: %s", f, why)
					continue
				}
				t.Errorf("fails, and not under crun: %s\n%s", f, ours.output)
			}
			if ours.passed < theirs.passed && ours.err != nil {
				t.Errorf("%d lines pass, %d under crun\n%s", ours.passed, theirs.passed, ours.output)
			}
			t.Logf("fails under both: %q %v", ours.failed, ours.err)
		})
	}
	t.Logf("%d programs without a failing line, %d passing lines", whole, lines)
}

// build builds the programs, once for each go.sum: linking 59 takes a minute.
func build(t *testing.T) string {
	t.Helper()
	sum, err := os.ReadFile("go.sum")
	if err != nil {
		t.Fatal(err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	bin := filepath.Join(cache, fmt.Sprintf("cais-ociconf-%s-%x", runtime.Version(), sha256.Sum256(sum)))
	if _, err := os.Stat(bin); err == nil {
		return bin
	}
	if out, err := exec.Command("go", "build", "-o", bin+".new/", "tool").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Rename(bin+".new", bin); err != nil {
		t.Fatal(err)
	}
	return bin
}

// source returns the directory of a module.
func source(t *testing.T, module string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func copyFile(t *testing.T, from, dir string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(from)), data, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// clean removes the containers that a program left.
func clean(t *testing.T, rt string) {
	t.Helper()
	out, err := exec.Command(rt, "list", "-q").Output()
	if err != nil {
		return
	}
	for id := range strings.FieldsSeq(string(out)) {
		if len(id) == 36 { // a uuid: the programs' names
			if out, err := exec.Command(rt, "delete", "--force", id).CombinedOutput(); err != nil {
				t.Log(fmt.Sprintf("%s", out), err)
			}
		}
	}
}
