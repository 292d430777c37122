package userns

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestMain(m *testing.M) {
	runtime.LockOSThread()
	os.Exit(m.Run())
}

func TestSubordinate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "subuid")
	text := "alice:100000:65536\n# no line\nbob:1:x\n1000:300000:10\nbob:400000:5\nalice:500000:0\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string][]IDMap{
		"alice,1000": {{0, 100000, 65536}, {0, 300000, 10}},
		"bob":        {{0, 400000, 5}},
		"carol":      nil,
	}
	for names, want := range tests {
		got, err := subordinate(path, strings.Split(names, ","))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %v, %v; want %v", names, got, err, want)
		}
	}
	if got, err := subordinate(path+"x", nil); got != nil || err != nil {
		t.Errorf("a missing file: %v, %v", got, err)
	}
	if got := FreeID(path, path+"x"); got != 400005 {
		t.Errorf("the first id that nobody has is %d; want 400005", got)
	}
	if got := FreeID(path + "x"); got != 100000 {
		t.Errorf("the first id where nobody has any is %d; want 100000", got)
	}
}

func TestAppendRanges(t *testing.T) {
	got := appendRanges([]IDMap{{0, 1000, 1}}, []IDMap{{0, 100000, 65536}, {0, 300000, 10}})
	want := []IDMap{{0, 1000, 1}, {1, 100000, 65536}, {65537, 300000, 10}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := appendRanges([]IDMap{{0, 1000, 1}}, []IDMap{{0, 1, 1<<32 - 1}}); len(got) != 1 {
		t.Errorf("a range beyond 32 bits is mapped: %v", got)
	}
}

// asUser runs this test again as an ordinary user: the one we are, or, for root,
// each of the test users that exist (one with subordinate ids, one without).
func asUser(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() != 0 {
		return true
	}
	ran := false
	for _, name := range []string{"cais-sub", "cais-nosub"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		ran = true
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		dir, err := os.MkdirTemp("", "userns")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		bin := filepath.Join(dir, "test")
		b, err := os.ReadFile(os.Args[0])
		if err == nil {
			err = os.WriteFile(bin, b, 0o755)
		}
		if err == nil {
			err = os.Chmod(dir, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(bin, "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Dir = "/"
		tmp := filepath.Join(dir, "tmp")
		if err := os.Mkdir(tmp, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(tmp, uid, gid); err != nil {
			t.Fatal(err)
		}
		cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/", "TMPDIR=" + tmp}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("as %s: %v\n%s", name, err, out)
		}
	}
	if !ran {
		t.Skip("needs an ordinary user: there is neither cais-sub nor cais-nosub (make setup)")
	}
	return false
}

func TestStartMakesAndJoins(t *testing.T) {
	if !asUser(t) {
		return
	}
	run := t.TempDir()
	link := func(text string) (string, *Process, *os.File) {
		t.Helper()
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		hold, in, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		p, err := Start(context.Background(), run, &Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", text}, Env: []string{"PATH=/usr/bin:/bin"},
			Files: []*os.File{hold, w, os.Stderr}, MountNS: true, Setsid: true, Pdeathsig: syscall.SIGKILL})
		w.Close()
		hold.Close()
		if err != nil {
			t.Fatal(err)
		}
		out := bufio.NewReader(r)
		said, err := out.ReadString('.') // the shell may go on behind it
		r.Close()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSuffix(said, "\n."), p, in
	}
	first, p1, in1 := link("echo $(readlink /proc/self/ns/user) $(id -u) $(id -g) $_CAIS_USERNS $_CONTAINERS_ROOTLESS_UID; echo .; read x; exit 3")
	f := strings.Fields(first)
	if len(f) != 5 || f[1] != "0" || f[2] != "0" || f[3] != "1" || f[4] != strconv.Itoa(os.Getuid()) {
		t.Errorf("in U: %q", first)
	}
	second, p2, in2 := link("readlink /proc/self/ns/user; cat /proc/self/uid_map; echo .")
	if !strings.HasPrefix(second, f[0]+"\n") {
		t.Errorf("the second process is in %q, not in %q", second, f[0])
	}
	in2.Close()
	if code, err := p2.Wait(); code != 0 || err != nil {
		t.Errorf("Wait = %d, %v", code, err)
	}
	m, err := Map(os.Getuid())
	if err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(second, "\n"); lines != len(m.UIDs) {
		t.Errorf("map %q, want %v", second, m)
	}
	t.Logf("map %v", m)
	in1.Close()
	if code, err := p1.Wait(); code != 3 || err != nil {
		t.Errorf("Wait = %d, %v", code, err)
	}
	// A stale entry goes, and the next U is a new one.
	stale := filepath.Join(run, "userns", strconv.Itoa(p1.PID)+"-1")
	if err := os.WriteFile(stale, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	third, p3, in3 := link("readlink /proc/self/ns/user; echo .")
	in3.Close()
	if code, err := p3.Wait(); code != 0 || err != nil {
		t.Errorf("Wait = %d, %v", code, err)
	}
	if third == "" {
		t.Error("no third")
	}
	if _, err := os.Stat(stale); err == nil {
		t.Error("the stale entry is left")
	}
}

func TestStartFails(t *testing.T) {
	if !asUser(t) {
		return
	}
	_, err := Start(context.Background(), t.TempDir(), &Cmd{Path: "/nope", Args: []string{"nope"}})
	if err == nil || !strings.Contains(err.Error(), "exec /nope") {
		t.Errorf("got %v", err)
	}
}

func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		p, err := Start(context.Background(), b.TempDir(), &Cmd{Path: "/bin/true", Args: []string{"true"}})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Wait(); err != nil {
			b.Fatal(err)
		}
	}
}
