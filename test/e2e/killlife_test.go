package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestKillLife does the same with what changes containers and volumes. After each,
// both names of the container can be removed, its volume too, and nothing is left:
// 20 seeds, 200 in make torture.
func TestKillLife(t *testing.T) {
	b := setUp(t)
	strace, ok := lookPath("strace")
	if !ok {
		t.Skip("strace is not installed")
	}
	if b.person != asRoot {
		t.Skip("needs root") // a traced program does not get newuidmap's rights
	}
	if err := exec.Command(strace, "-f", "-o", "/dev/null", "true").Run(); err != nil {
		t.Skipf("tracing is not permitted: %v", err)
	}
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
			s.killLife(t, strace, verb, call, nth)
		})
	}
}

func (s *store) killLife(t *testing.T, strace, verb, call string, nth int) {
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
	args := how[verb]
	victim := s.cmd(args...)
	victim.Args = append([]string{strace, "-f", "-qq", "-o", "/dev/null",
		"-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth)}, append([]string{s.cais}, args...)...)
	victim.Path = strace
	victim.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	timer := time.AfterFunc(time.Minute, func() { syscall.Kill(-victim.Process.Pid, syscall.SIGKILL) })
	// Not to a pipe: a monitor that it started would hold that open.
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	victim.Stdout, victim.Stderr = null, null
	err = victim.Run()
	if !timer.Stop() {
		t.Errorf("%s hung", verb)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}

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
