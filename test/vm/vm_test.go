// Package vm runs in a guest what this machine may not show: systemd with a user
// manager, a pure cgroup v2, logout, reboot, NFS. See README.md.
package vm

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/test/testimage"
)

// guest is a running testvm.
type guest struct {
	t      *testing.T
	script string // testvm
	share  string // the directory that it shares
}

// do runs testvm.
func (g *guest) do(args ...string) (string, error) {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, g.script, args...)
	cmd.Dir = g.share
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	return out.String(), err
}

func (g *guest) must(args ...string) string {
	g.t.Helper()
	out, err := g.do(args...)
	if err != nil {
		g.t.Fatalf("testvm %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// step runs a part of hosts.sh in the guest.
func (g *guest) step(user, part string) {
	g.t.Helper()
	g.t.Run(part+"-"+user, func(t *testing.T) {
		out, err := g.do("exec", "-u", user, "--", "./hosts.sh", part)
		t.Log(out)
		if err != nil {
			t.Error(err)
		}
	})
}

func TestGuest(t *testing.T) {
	if os.Getenv("CAIS_VM") == "" {
		return // make test-vm asks for it
	}
	script, err := filepath.Abs("testvm")
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TESTVM_PACKAGES", "nfs-kernel-server nfs-common systemd-resolved")
	if out, err := exec.Command(script, "build").CombinedOutput(); err != nil {
		t.Skipf("the guest cannot be made here: %v\n%s", err, out)
	}
	g := &guest{t, script, share(t)}
	g.must("up")
	defer g.must("down")

	g.step("tester", "doctor")
	g.step("tester", "limits")
	g.step("root", "limits")
	g.step("root", "networks") // first: it switches systemd-resolved on
	g.step("tester", "networks")
	g.step("nosub", "limits")
	g.step("nosub", "networks")
	g.step("tester", "leave")
	g.step("tester", "stays") // every exec is a login of its own
	g.step("tester", "scope")
	g.step("root", "scope")
	g.step("root", "nfs")
	g.step("tester", "boot")
	g.step("root", "boot")
	g.must("reboot")
	g.step("tester", "booted")
	g.step("root", "booted")
}

// share is a directory with what goes into the guest.
func share(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "caisvm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // a temporary directory
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	box, err := testimage.FindBox(dir)
	if err != nil {
		t.Fatal(err)
	}
	img, err := box.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := testimage.Save(filepath.Join(dir, "busybox.tar"), "busybox:latest", img); err != nil {
		t.Fatal(err)
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	cais := os.Getenv("CAIS_E2E_BIN")
	if cais == "" {
		cais = "../../bin/cais"
	}
	for name, from := range map[string]string{"cais": cais, "busybox": busybox, "hosts.sh": "hosts.sh"} {
		data, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
