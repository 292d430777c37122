// In a package of its own: what the test imports must not become what nofile imports.
package nofile_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/run/launch/nofile"
)

// TestInherited starts this test again with another soft limit.
func TestInherited(t *testing.T) {
	if os.Getenv("NOFILE_TEST") != "" {
		soft, hard, ok := nofile.Inherited()
		fmt.Print("limits ", soft, " ", hard, " ", ok, "\n")
		return
	}
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprint("limits 100 ", l.Max, " true\n")
	cmd := exec.Command("sh", "-c", "ulimit -S -n 100; exec \"$0\" -test.run=TestInherited", os.Args[0])
	cmd.Env = append(os.Environ(), "NOFILE_TEST=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte(want)) {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}
