package role

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestReach: what this package reaches, every running container pays for.
func TestReach(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skip("go list: ", err)
	}
	ours := []string{
		"atomicfile", "errs", "logs/jsonfile", "run/launch", "run/launch/nofile", "run/monitor", "run/role", "run/wire", "sys/raw",
	}
	for p := range strings.Lines(string(out)) {
		p = strings.TrimSpace(p)
		if rest, ok := strings.CutPrefix(p, "cais.dev/cais/pkg/"); ok {
			if !slices.Contains(ours, rest) {
				t.Errorf("reaches %s", p)
			}
			continue
		}
		if strings.Contains(strings.Split(p, "/")[0], ".") {
			t.Errorf("reaches %s", p)
		}
		switch p {
		case "fmt", "log", "net", "reflect", "regexp", "context", "os/exec", "os/signal", "sort", "bufio", "bytes", "encoding/json", "encoding/binary":
			t.Errorf("reaches %s", p)
		}
	}
}
