package e2e

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// TestKillLife does the same with what changes containers and volumes. After each,
// both names of the container can be removed, its volume too, and nothing is left.
func TestKillLife(t *testing.T) {
	b := setUp(t)
	k := newKiller(t, b)
	verbs := []string{"start", "stop", "exec", "in", "out", "update", "rename", "rm", "volume", "pause", "restart", "create"}
	k.asBoth(t, b, func(t *testing.T, s *store) {
		k.seeds(t, 44, verbs, 30, func(t *testing.T, verb string, kill kill) { s.killLife(t, kill, verb) })
	})
}

func (s *store) killLife(t *testing.T, kill kill, verb string) {
	must := s.must(t)
	how := map[string][]string{
		"start":   {"start", "victim"},
		"stop":    {"stop", "-t", "0", "victim"},
		"exec":    {"exec", "victim", "true"},
		"in":      {"cp", filepath.Join(s.images, "busybox.tar"), "victim:/v/file"},
		"out":     {"cp", "victim:/bin", "-"},
		"update":  {"update", "--restart", "on-failure:2", "victim"},
		"rename":  {"rename", "victim", "other"},
		"rm":      {"rm", "-f", "-v", "victim"},
		"volume":  {"volume", "rm", "killvol"},
		"pause":   {"pause", "victim"},
		"restart": {"restart", "-t", "0", "victim"},
		"create":  {"create", "--name", "victim", "-v", "killvol:/etc", "-v", "/anon", "busybox", "true"},
	}
	// What a container runs is traced, too, and strace waits for its end.
	switch verb {
	case "start":
		must("create", "--name", "victim", "-v", "killvol:/v", "busybox", "sleep", "1")
	case "volume":
		must("run", "--rm", "-v", "killvol:/etc", "busybox", "true")
	case "create":
	default:
		must("run", "-d", "--name", "victim", "-v", "killvol:/v", "-v", "/anon", "busybox", "sleep", "1")
	}
	kill(t, s, how[verb]...)

	// What follows works, with the same names.
	must("ps", "-a")
	must("rm", "-f", "-v", "victim", "other")
	must("volume", "ls")
	must("volume", "rm", "-f", "killvol")
	must("volume", "prune", "-a", "-f")
	if got := must("run", "--rm", "--name", "victim", "-v", "killvol:/v", "busybox", "echo", "goes"); got != "goes\n" {
		t.Errorf("the next run says %q", got)
	}
	must("volume", "rm", "killvol")
	left, err := os.ReadDir(filepath.Join(s.root, "volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, e := range left {
		t.Errorf("left behind: volumes/%s", e.Name())
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}
