package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestKillLife does the same with what changes containers and volumes. After each,
// both names of the container can be removed, its volume too, and nothing is left:
// 20 seeds, 200 in make torture.
func TestKillLife(t *testing.T) {
	b := setUp(t)
	k := newKiller(t, b)
	seeds := 20
	if os.Getenv("CAIS_TORTURE") != "" {
		seeds = 200
	}
	s := b.storeFor(t, true)
	verbs := []string{"start", "stop", "exec", "in", "out", "update", "rename", "rm", "volume", "pause", "restart", "create"}
	for seed := range seeds {
		rnd := rand.New(rand.NewPCG(uint64(seed), 44))
		verb := verbs[seed%len(verbs)]
		call := killed[rnd.IntN(len(killed))]
		nth := 1 + rnd.IntN(30)
		t.Run(fmt.Sprintf("%03d-%s-%s-%d", seed, verb, call, nth), func(t *testing.T) {
			s.killLife(t, k, verb, call, nth)
		})
	}
}

func (s *store) killLife(t *testing.T, k killer, verb, call string, nth int) {
	must := func(args ...string) string {
		t.Helper()
		out, err := s.cmd(args...).CombinedOutput()
		if err != nil {
			t.Errorf("cais %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
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
	k.kill(t, s, call, nth, how[verb]...)

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
