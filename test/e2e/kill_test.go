package e2e

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	cunits "cais.dev/cais/pkg/units"
)

// killed are the system calls that a victim may die in: those that change
// something, or wait for somebody.
var killed = []string{
	"openat", "mkdirat", "renameat", "unlinkat", "linkat", "symlinkat", "write", "pwrite64",
	"fcntl", "flock", "close", "fsync", "ftruncate", "fchmodat", "fchownat", "utimensat",
	"clone", "execve", "mount", "pivot_root", "setns", "unshare", "wait4", "waitid", "sendmsg",
	"recvmsg", "connect", "socket", "exit_group", "fchmod", "getdents64", "newfstatat", "setxattr", "epoll_ctl",
	"fsconfig", "fsmount", "move_mount", "openat2", "pipe2",
}

// killer kills processes in system calls, in all that a command starts.
type killer struct{ strace string }

// newKiller skips the test where nobody may be killed that way.
func newKiller(t *testing.T, b *bench) killer {
	t.Helper()
	strace, ok := lookPath("strace")
	if !ok {
		t.Skip("strace is not installed")
	}
	if b.person != asRoot {
		t.Skip("needs root") // a program that a user traces does not get newuidmap's rights
	}
	if err := exec.Command(strace, "-f", "-o", "/dev/null", "true").Run(); err != nil {
		t.Skipf("tracing is not permitted: %v", err)
	}
	return killer{strace}
}

// asBoth tests with a store of root's, and with one of his test user's.
func (k killer) asBoth(t *testing.T, b *bench, f func(t *testing.T, s *store)) {
	for _, who := range []person{asRoot, withSubs} {
		t.Run(string(who), func(t *testing.T) { f(t, b.storeAs(t, who, true)) })
	}
}

// kill is [killer.kill] with a call and a number.
type kill func(t *testing.T, s *store, args ...string)

// seeds tests one death for each of 20 seeds, 200 in make torture: of the verbs, one
// after the other, in the system call that the seed chooses, at most the last-th.
func (k killer) seeds(t *testing.T, sequence uint64, verbs []string, last int, f func(t *testing.T, verb string, kill kill)) {
	n := 20
	if os.Getenv("CAIS_TORTURE") != "" {
		n = 200
	}
	for seed := range n {
		rnd := rand.New(rand.NewPCG(uint64(seed), sequence))
		verb, call, nth := verbs[seed%len(verbs)], killed[rnd.IntN(len(killed))], 1+rnd.IntN(last)
		t.Run(fmt.Sprintf("%03d-%s-%s-%d", seed, verb, call, nth), func(t *testing.T) {
			f(t, verb, func(t *testing.T, s *store, args ...string) { k.kill(t, s, call, nth, args...) })
		})
	}
}

// kill carries the program out until one of its processes is in the nth call, and
// ends that there. It may also come to its end, and fail.
func (k killer) kill(t *testing.T, s *store, call string, nth int, args ...string) {
	t.Helper()
	victim := s.cmd(args...)
	victim.Args = []string{k.strace, "-f", "-qq", "-o", "/dev/null",
		"-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, nth)}
	if s.as != nil { // strace stays root, so that newuidmap gets its rights
		u, err := user.LookupId(fmt.Sprint(s.as.Uid))
		if err != nil {
			t.Fatal(err)
		}
		victim.Args = append(victim.Args, "-u", u.Username)
	}
	victim.Args = append(append(victim.Args, s.cais), args...)
	victim.Path = k.strace
	victim.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	timer := time.AfterFunc(time.Minute, func() { syscall.Kill(-victim.Process.Pid, syscall.SIGKILL) })
	said, err := os.Create(filepath.Join(t.TempDir(), "said")) // not a pipe: a monitor would hold it open
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	victim.Stdout, victim.Stderr = said, said
	err = victim.Run()
	if !timer.Stop() {
		out, _ := os.ReadFile(said.Name())
		t.Errorf("cais %s hung: %s", strings.Join(args, " "), out)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
}

// TestKill ends pull, run, rm and load by SIGKILL in a system call that a seed
// chooses, in whichever process of theirs comes to it. After each, what follows
// must work and nothing may be left.
func TestKill(t *testing.T) {
	b := setUp(t)
	k := newKiller(t, b)
	srv := httptest.NewServer(registry.New(registry.Logger(quiet())))
	defer srv.Close()
	ref := strings.TrimPrefix(srv.URL, "http://") + "/multi:1"
	b.pushMulti(t, ref)
	k.asBoth(t, b, func(t *testing.T, s *store) {
		k.seeds(t, 42, []string{"run", "pull", "rm", "run", "load"}, 30, func(t *testing.T, verb string, kill kill) {
			s.killOne(t, kill, verb, ref)
		})
	})
}

func (s *store) killOne(t *testing.T, kill kill, verb, ref string) {
	must := s.must(t)
	var args []string
	switch verb {
	case "run":
		args = []string{"run", "--rm", "--name", "victim", "busybox", "echo", "hi"}
	case "rm":
		must("run", "--name", "victim", "busybox", "true")
		args = []string{"rm", "victim"}
	case "pull":
		args = []string{"pull", "-q", ref}
	case "load":
		args = []string{"load", "-q", "-i", filepath.Join(s.images, "busybox.tar")}
	}
	kill(t, s, args...)

	// What follows works, with the same names.
	must("ps", "-a")
	must("images")
	s.lapse(t)
	must("system", "check")
	switch verb {
	case "pull":
		must("pull", "-q", ref)
		if got := must("run", "--rm", ref, "cat", "/srv/top"); got != "three layers\n" {
			t.Errorf("the pulled image says %q", got)
		}
		must("rmi", ref)
	case "load":
		must(args...)
	default:
		must("rm", "-f", "victim")
	}
	if got := must("run", "--rm", "--name", "victim", "busybox", "cat", "/srv/hello"); got != "hello from the second layer\n" {
		t.Errorf("the next run says %q", got)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

func (b *bench) pushMulti(t *testing.T, to string) {
	t.Helper()
	ref, err := name.ParseReference(to, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	idx, err := b.box.Multi()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref, idx); err != nil {
		t.Fatal(err)
	}
}

// TestKillImages does the same with what changes images: push, load, commit, rmi
// and prune. After each, the store must be as it should be and take what system df
// says.
func TestKillImages(t *testing.T) {
	b := setUp(t)
	k := newKiller(t, b)
	srv := httptest.NewServer(registry.New(registry.Logger(quiet())))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	pushed := 0
	k.asBoth(t, b, func(t *testing.T, s *store) {
		k.seeds(t, 43, []string{"push", "load", "commit", "rmi", "prune"}, 60, func(t *testing.T, verb string, kill kill) {
			pushed++
			s.killImages(t, kill, verb, fmt.Sprintf("%s/r%d:1", host, pushed))
		})
	})
}

func (s *store) killImages(t *testing.T, kill kill, verb, ref string) {
	must := s.must(t)
	must("create", "--name", "keeps", "busybox", "true") // busybox itself stays
	var args []string
	switch verb {
	case "push":
		must("tag", "busybox", ref)
		args = []string{"push", "-q", ref}
	case "load":
		args = []string{"load", "-q", "-i", filepath.Join(s.images, "multi.tar")}
		if _, err := os.Stat(args[3]); err != nil {
			args[3] = filepath.Join(s.images, "busybox.tar")
		}
	case "commit":
		args = []string{"commit", "keeps", "made:1"}
	case "rmi", "prune":
		must("commit", "-m", verb, "keeps", "made:1")
		args = []string{"rmi", "made:1"}
		if verb == "prune" {
			args = []string{"image", "prune", "-af"}
		}
	}
	kill(t, s, args...)

	must(args2(args, verb)...) // the same again works
	must("image", "prune", "-f")
	s.cmd("rmi", "made:1", ref).Run() // one of them is there, or none
	must("rm", "keeps")
	s.lapse(t)
	if out := must("system", "check"); out != "" {
		t.Errorf("system check: %s", out)
	}
	said := strings.TrimSpace(must("system", "df", "--format", "{{if eq .Type \"Images\"}}{{.Size}}{{end}}"))
	if real := units(s.layerBytes(t)); real != said {
		t.Errorf("system df says %s, the layers' files have %s", said, real)
	}
	if got := must("run", "--rm", "--network", "none", "busybox", "cat", "/srv/hello"); got != "hello from the second layer\n" {
		t.Errorf("the next run says %q", got)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// lapse lets the seconds go by for which a directory of a killed pull may be one that
// is being made: who is killed between the two leaves such.
func (s *store) lapse(t *testing.T) {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(s.root, "storage", "overlay", "staging", "*")) // the pattern is a good one
	for _, dir := range dirs {
		then := time.Now().Add(-time.Minute)
		if err := os.Chtimes(dir, then, then); err != nil {
			t.Error(err)
		}
	}
}

// args2 is what is done again after a kill: it may have been done.
func args2(args []string, verb string) []string {
	if verb == "rmi" {
		return append([]string{args[0], "-f"}, args[1:]...)
	}
	return args
}

// layerBytes is what the files of all layers have, a hard link once: du
// --apparent-size of them without directories. Docker counts so, too; a file system's
// blocks, and the store's own records, are not in it.
func (s *store) layerBytes(t *testing.T) int64 {
	t.Helper()
	var sum int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(filepath.Join(s.root, "storage", "overlay"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || !strings.Contains(path, "/diff/") {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if st := info.Sys().(*syscall.Stat_t); !seen[st.Ino] {
			seen[st.Ino] = true
			sum += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

func units(n int64) string { return cunits.Size4(n) }
