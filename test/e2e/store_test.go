package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// store is one script's CAIS_ROOT, and what must be true when the script is over.
type store struct {
	*bench
	root, home, path string
	// broken: the script has damaged the store on purpose, so nothing is checked.
	broken bool
	// as is whom the program runs as; nil: whoever runs the tests.
	as *syscall.Credential
}

func (b *bench) newStore(home string) (*store, error) {
	s := &store{bench: b, home: home}
	s.root = filepath.Join(b.dir, fmt.Sprintf("%s%d", b.person[:1], numbers.Add(1)))
	s.path = filepath.Dir(b.cais) + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin"
	for _, d := range []string{s.root, home} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *store) environ() []string {
	env := []string{"CAIS_ROOT=" + s.root, "HOME=" + s.home, "PATH=" + s.path, "LC_ALL=C"}
	if d := os.Getenv("GOCOVERDIR"); d != "" {
		env = append(env, "GOCOVERDIR="+d)
	}
	return env
}

// cmd returns the program with this store.
func (s *store) cmd(args ...string) *exec.Cmd {
	c := exec.Command(s.cais, args...)
	c.Env = s.environ()
	if s.as != nil {
		c.SysProcAttr, c.Dir = &syscall.SysProcAttr{Credential: s.as}, "/"
	}
	return c
}

// finish removes the script's containers with the program itself, then looks for
// what is left: a process, a mount, a container's directory, a name, a held lock,
// a staging area, a temporary file.
func (s *store) finish() error {
	defer s.remove()
	if s.broken {
		return nil
	}
	err := s.removeContainers()
	return errors.Join(err, s.leftovers())
}

func (s *store) removeContainers() error {
	out, err := s.cmd("ps", "-aq", "--no-trunc").Output()
	if err != nil {
		return fmt.Errorf("cais ps -aq: %w%s", err, stderrOf(err))
	}
	if ids := strings.Fields(string(out)); len(ids) > 0 {
		if out, err := s.cmd(append([]string{"rm", "-f", "-v"}, ids...)...).CombinedOutput(); err != nil {
			return fmt.Errorf("cais rm -f: %w: %s", err, out)
		}
	}
	return nil
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 {
		return ": " + string(exit.Stderr)
	}
	return ""
}

// leftovers lists what a store without containers should not have. A monitor
// leaves a moment after its container's end, so processes are given some time.
func (s *store) leftovers() error {
	var procs []string
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if procs = s.processes(); len(procs) == 0 || time.Now().After(deadline) {
			break
		}
	}
	var bad []string
	for _, p := range procs {
		bad = append(bad, "process "+p)
	}
	for _, d := range []string{"containers", "names"} {
		entries, err := os.ReadDir(filepath.Join(s.root, d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			bad = append(bad, err.Error())
		}
		for _, e := range entries {
			bad = append(bad, filepath.Join(d, e.Name()))
		}
	}
	bad = append(bad, mountsBelow(s.root)...)
	bad = append(bad, s.cgroups()...)
	bad = append(bad, s.files()...)
	if len(bad) > 0 {
		slices.Sort(bad)
		return errors.New(strings.Join(bad, "\n  "))
	}
	return nil
}

// mountsBelow lists the mounts of this process's namespace below root.
func mountsBelow(root string) []string {
	var found []string
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], root+"/") {
			found = append(found, "mount "+f[4])
		}
	}
	return found
}

// processes finds the processes of this store: started with it in their
// environment or arguments, or in a mount namespace with mounts that come from it.
func (s *store) processes() []string {
	var found []string
	own, _ := os.Readlink("/proc/self/ns/mnt")
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid := filepath.Base(d)
		cmdline, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		if pid == fmt.Sprint(os.Getpid()) || len(cmdline) == 0 { // an empty one is a zombie
			continue
		}
		environ, _ := os.ReadFile(filepath.Join(d, "environ"))
		ours := bytes.Contains(append([]byte{0}, environ...), []byte("\x00CAIS_ROOT="+s.root+"\x00")) ||
			bytes.Contains(append(cmdline, 0), []byte(s.root+"/"))
		if ns, err := os.Readlink(filepath.Join(d, "ns", "mnt")); !ours && err == nil && ns != own {
			mounts, _ := os.ReadFile(filepath.Join(d, "mountinfo"))
			ours = bytes.Contains(mounts, []byte(s.root+"/"))
		}
		if ours {
			found = append(found, pid+" "+strings.ReplaceAll(string(bytes.TrimRight(cmdline, "\x00")), "\x00", " "))
		}
	}
	return found
}

var tempName = regexp.MustCompile(`^(tmp|temp|staging|incomplete|\.tmp)|\.(tmp|partial|new)$|^\.[a-z]+\.json\.`)

// files finds temporary files, staging areas with something in them, and locks
// that somebody holds.
func (s *store) files() []string {
	var bad []string
	filepath.WalkDir(s.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // another user's: what a container wrote
		}
		rel, _ := filepath.Rel(s.root, path)
		if d.IsDir() && (strings.HasPrefix(rel, "storage/overlay/") || strings.HasPrefix(rel, "storage/vfs/dir/")) && strings.Count(rel, "/") >= 3 {
			return fs.SkipDir // below here are images' own files
		}
		if d.IsDir() && d.Name() == "diff" && strings.HasPrefix(rel, "storage/cais/build/") {
			return fs.SkipDir // and what steps of builds made
		}
		if tempName.MatchString(d.Name()) {
			if entries, err := os.ReadDir(path); !d.IsDir() || err != nil || len(entries) > 0 {
				bad = append(bad, "temporary "+rel)
			}
		}
		if d.Type().IsRegular() {
			if f, err := os.Open(path); err == nil {
				if errors.Is(syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB), syscall.EWOULDBLOCK) {
					bad = append(bad, "held lock "+rel)
				}
				f.Close()
			}
		}
		return nil
	})
	return bad
}

// remove deletes the store. A user's holds files of ids that only his user
// namespace may remove.
func (s *store) remove() {
	if s.person == asRoot && s.as == nil {
		s.removeBridge()
	}
	if err := os.RemoveAll(s.root); err != nil && s.person != asRoot {
		s.cmd("unshare", "rm", "-rf", s.root).Run()
	}
}

var deviceName = regexp.MustCompile(`"device":"(cais[0-9a-z]+)"`)

// removeBridge takes the default network's bridge away, which root's stays as long
// as the machine runs: the next store is to get the same addresses.
func (s *store) removeBridge() {
	files, _ := filepath.Glob(filepath.Join(s.root, "networks", "*.json"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		if m := deviceName.FindSubmatch(text); m != nil {
			_ = exec.Command("ip", "link", "del", string(m[1])).Run() // it may not have come to be
			_ = exec.Command("nft", "delete", "table", "inet", "cais-"+string(m[1])).Run()
		}
	}
}

var containerID = regexp.MustCompile(`"[0-9a-f]{64}"`)

// cgroups finds cgroups of the containers that this store has had, which are
// those that its events name. Others' containers come and go as they like.
func (s *store) cgroups() []string {
	ids := map[string]bool{}
	logs, _ := filepath.Glob(filepath.Join(s.root, "events", "*"))
	for _, log := range logs {
		text, _ := os.ReadFile(log)
		for _, id := range containerID.FindAll(text, -1) {
			ids["cais-"+string(id[1:65])] = true
		}
	}
	var left []string
	filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && ids[d.Name()] {
			left = append(left, "cgroup "+path)
		}
		return nil
	})
	return left
}

// storeFor makes a store for a test that is not a script, with the image in it if
// load says so.
func (b *bench) storeFor(t *testing.T, load bool) *store {
	t.Helper()
	return b.storeAs(t, b.person, load)
}

// storeAs does so for root's test user, too.
func (b *bench) storeAs(t *testing.T, who person, load bool) *store {
	t.Helper()
	s, err := b.newStore(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	if who != b.person {
		u, err := user.Lookup("cais-" + string(who))
		if err != nil {
			t.Skip("useradd is not installed: ", err)
		}
		s.become(t, u)
	}
	t.Cleanup(func() {
		if err := s.finish(); err != nil {
			t.Error("left behind: ", err)
		}
	})
	if load {
		if out, err := s.cmd("load", "-q", "-i", filepath.Join(b.images, "busybox.tar")).CombinedOutput(); err != nil {
			t.Fatalf("load: %v: %s", err, out)
		}
	}
	return s
}

// must returns a function that runs the program, and says what it said; a failure
// is the test's, which goes on.
func (s *store) must(t *testing.T) func(args ...string) string {
	return func(args ...string) string {
		t.Helper()
		out, err := s.cmd(args...).CombinedOutput()
		if err != nil {
			t.Errorf("cais %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
}
