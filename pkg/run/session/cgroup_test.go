package session

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/run/wire"
)

// memoryCgroup makes a cgroup with a limit of 16 MB, on v1 or v2.
func memoryCgroup(t *testing.T) string {
	t.Helper()
	for _, v := range [][2]string{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		dir := filepath.Join(v[0], "cais-test-"+strconv.Itoa(os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		// Without making it: on hybrid hosts /sys/fs/cgroup is a tmpfs.
		if f, err := os.OpenFile(filepath.Join(dir, v[1]), os.O_WRONLY, 0); err == nil {
			_, err = f.WriteString("16777216")
			_ = f.Close() // the write told
			if err == nil {
				return dir
			}
		}
		_ = os.Remove(dir)
	}
	t.Skip("no memory cgroup can be made here")
	return ""
}

// TestOOM: the kernel ends a container that takes too much, the record says so,
// and the cgroups, with those that the container made, are gone.
func TestOOM(t *testing.T) {
	dir := memoryCgroup(t)
	b := newBox(t, "mkdir "+dir+"/child; echo $$ > "+dir+"/cgroup.procs; head -c 100000000 /dev/zero | tail; kill -9 $$")
	b.job.Cgroups = []string{dir}
	x, out := finish(t, b.start(everything), Streams{})
	if x.Code != 137 || !x.OOMKilled || !b.exit().OOMKilled {
		t.Errorf("exit %+v, %q", x, out)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
}

// TestCgroupKill: what hides in the container's cgroup ends with it.
func TestCgroupKill(t *testing.T) {
	dir := memoryCgroup(t)
	b := newBox(t, "echo $$ > "+dir+"/cgroup.procs; setsid sleep 1000 & echo $!")
	b.job.Cgroups = []string{dir}
	x, out := finish(t, b.start(wire.Attach{Stdout: true, Stderr: true}), Streams{})
	pid, err := strconv.Atoi(strings.TrimSpace(out))
	if x.Code != 0 || x.OOMKilled || err != nil {
		t.Fatalf("exit %+v, %q", x, out)
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Errorf("process %d is left", pid)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
}
