package role

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestReach: what this package reaches, every running container pays for. Of the
// packages that are ready to be initialised, the one whose path sorts first comes
// next: had this package to wait for path/filepath or unicode, whose turn comes
// late, most of the program would be initialised before it.
func TestReach(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Skip("go list: ", err)
	}
	ours := []string{
		"errs", "logs/forward", "logs/jsonfile", "network/dns", "network/gateway", "network/loop", "network/netlink", "network/netns", "network/nft", "network/plane",
		"network/relay", "network/sock", "run/launch", "run/launch/nofile", "run/monitor", "run/role", "run/wire", "sys/raw",
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
		case "path/filepath", "strings", "unicode", "fmt", "log", "net", "reflect", "regexp", "context", "os/exec", "os/signal", "sort", "bufio", "bytes", "encoding/json", "encoding/binary":
			t.Errorf("reaches %s", p)
		}
	}
}
