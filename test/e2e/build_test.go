package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// buildContext makes a context of one file and a Dockerfile.
func buildContext(t *testing.T, dockerfile string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": dockerfile, "file": "content\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// buildLeftovers lists what a killed build left that the next one should have
// removed.
func (s *store) buildLeftovers() []string {
	var found []string
	_ = filepath.WalkDir(s.root, func(p string, d fs.DirEntry, err error) error { // what cannot be read is not ours
		if err != nil {
			return nil
		}
		if dir := filepath.Base(filepath.Dir(p)); strings.Contains(p, "/cais/build/") && (dir == "tmp" || dir == "locks") {
			found = append(found, p)
		}
		if d.IsDir() && (d.Name() == "overlay" || d.Name() == "results") {
			return filepath.SkipDir
		}
		return nil
	})
	return found
}

// TestKillBuild ends builds by SIGKILL in a system call that a seed chooses. The
// next build must succeed, and leave nothing of the killed one.
func TestKillBuild(t *testing.T) {
	b := setUp(t)
	k := newKiller(t, b)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	dir := buildContext(t, `FROM busybox AS a
RUN --mount=type=cache,target=/c --mount=type=bind,target=/m cat /m/file > /x
FROM busybox
COPY file /new/
RUN echo hello > /f
COPY --from=a /x /y
WORKDIR /w
`)
	openAbove(t, filepath.Join(dir, "Dockerfile"))
	k.asBoth(t, b, func(t *testing.T, s *store) {
		k.seeds(t, 7, []string{"build"}, 60, func(t *testing.T, verb string, kill kill) { s.killBuild(t, kill, dir) })
	})
}

func (s *store) killBuild(t *testing.T, kill kill, dir string) {
	must := s.must(t)
	kill(t, s, "build", "-q", "--no-cache", "-t", "victim", dir)

	must("build", "-q", "-t", "victim", dir)
	if got := must("run", "--rm", "--network", "none", "victim", "cat", "/f", "/y", "/new/file"); got != "hello\ncontent\ncontent\n" {
		t.Errorf("its image says %q", got)
	}
	s.lapse(t)
	if out := must("system", "check"); out != "" {
		t.Errorf("system check: %s", out)
	}
	if left := s.buildLeftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// TestConcurrentBuilds has several processes build the same at once: each step is
// carried out once.
func TestConcurrentBuilds(t *testing.T) {
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	dir := buildContext(t, "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked echo once >> /c/count; cat /c/count > /count\nCOPY file /\nRUN cat /proc/sys/kernel/random/uuid > /uuid\n")
	s := b.storeFor(t, true)
	ids := make([]string, 6)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			out, err := s.cmd("build", "-q", "-t", "same", dir).Output()
			ids[i] = fmt.Sprint(string(out), err)
		})
	}
	wg.Wait()
	for _, id := range ids {
		if id != ids[0] || !strings.HasPrefix(id, "sha256:") {
			t.Errorf("different images: %q", ids)
			break
		}
	}
	if out, err := s.cmd("run", "--rm", "--network", "none", "same", "cat", "/count").CombinedOutput(); err != nil || string(out) != "once\n" {
		t.Errorf("the command ran more than once: %q, %v", out, err)
	}
	if left := s.buildLeftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// TestInterruptedBuild stops a build with Ctrl-C's signal: its command ends at once, and
// nothing is left but what was finished.
func TestInterruptedBuild(t *testing.T) {
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	dir := buildContext(t, "FROM busybox\nRUN echo done > /done\nRUN echo sleeping; sleep 1000\n")
	s := b.storeFor(t, true)
	cmd := s.cmd("build", "--progress", "plain", dir)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	text, buf := "", make([]byte, 4096)
	for !strings.Contains(text, " sleeping\n") {
		n, err := stderr.Read(buf)
		if err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		text += string(buf[:n])
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := stderr.Read(buf); err != nil {
			break
		}
	}
	if err := cmd.Wait(); err == nil {
		t.Error("it came to its end")
	}
	if left := s.buildLeftovers(); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}
