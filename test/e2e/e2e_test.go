// Package e2e runs scripts against the built program: as whoever runs the tests,
// and, where that is root and CAIS_E2E=root, again as two ordinary users. Every
// script has a store of its own, and must leave nothing behind.
package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/network/nettest"
	"cais.dev/cais/test/testimage"
)

func TestMain(m *testing.M) {
	testscript.Main(tidyRun{m}, map[string]func(){
		"nameserver": nameserver,
		"ttyrun":     ttyrun,
		"waitfor":    waitfor,
	})
}

// tidyRun removes what setUp made.
type tidyRun struct{ m *testing.M }

func (r tidyRun) Run() int {
	if code, done := elsewhere(); done {
		return code
	}
	code := r.m.Run()
	if shared != nil && os.Getenv("CAIS_E2E_DIR") == "" {
		if err := os.RemoveAll(shared.dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	return code
}

// person is whom the scripts run as.
type person string

const (
	asRoot   person = "root"
	withSubs person = "sub"   // an ordinary user with subordinate ids
	noSubs   person = "nosub" // and one without
)

// whoami says who runs this process.
func whoami() person {
	if os.Geteuid() == 0 {
		return asRoot
	}
	u, err := user.Current()
	if err != nil {
		return noSubs
	}
	data, err := os.ReadFile("/etc/subuid")
	if err != nil {
		return noSubs
	}
	for line := range strings.Lines(string(data)) {
		if name, _, ok := strings.Cut(line, ":"); ok && (name == u.Username || name == u.Uid) {
			if _, err := exec.LookPath("newuidmap"); err == nil {
				return withSubs
			}
		}
	}
	return noSubs
}

// bench holds what is made once for all scripts.
type bench struct {
	dir    string // short, and on a tmpfs that holds overlays if there is one
	cais   string // the program
	images string // archives, by name
	box    *testimage.Box
	person person
}

var (
	shared  *bench
	numbers atomic.Int32
)

// setUp makes the bench, or takes the one of the process that started this one.
func setUp(t *testing.T) *bench {
	t.Helper()
	if shared != nil {
		return shared
	}
	b := &bench{dir: os.Getenv("CAIS_E2E_DIR"), person: whoami()}
	made := b.dir == ""
	if made {
		dir, err := os.MkdirTemp(fastDir(), "ce")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		b.dir = dir
	}
	b.cais, b.images = filepath.Join(b.dir, "bin", "cais"), filepath.Join(b.dir, "images")
	shared = b // from here on tidyRun removes it
	if made {
		if err := os.MkdirAll(b.images, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	box, err := testimage.FindBox(b.images)
	if err != nil {
		t.Fatal(err)
	}
	b.box = box
	if made {
		if err := b.fill(); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// fastDir is a place with a short name (a socket's path has 107 bytes) and, if
// it can be had, without a disk below.
func fastDir() string {
	const shm = "/dev/shm"
	f, err := os.CreateTemp(shm, "ce")
	if err != nil {
		return "/tmp"
	}
	defer os.Remove(f.Name())
	defer f.Close()
	// Older kernels have no user extended attributes on tmpfs, which a rootless
	// overlay needs.
	if err := unix.Fsetxattr(int(f.Fd()), "user.cais", []byte("1"), 0); err != nil {
		return "/tmp"
	}
	return shm
}

// fill takes the program, bin/cais or what CAIS_E2E_BIN names, and makes the image.
func (b *bench) fill() error {
	if err := os.MkdirAll(filepath.Dir(b.cais), 0o755); err != nil {
		return err
	}
	bin := os.Getenv("CAIS_E2E_BIN")
	if bin == "" {
		bin = "../../bin/cais"
	}
	for _, name := range []string{"cais", "cais-verify", "cais-netstack"} {
		from := bin
		if name != "cais" {
			from = filepath.Join(filepath.Dir(bin), name)
		}
		data, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("%w (make build)", err)
		}
		if err := os.WriteFile(filepath.Join(filepath.Dir(b.cais), name), data, 0o755); err != nil {
			return err
		}
	}
	// Called by this name it speaks as Docker does; the parity tests do.
	if err := os.Symlink("cais", filepath.Join(filepath.Dir(b.cais), "docker")); err != nil {
		return err
	}
	img, err := b.box.Busybox()
	if err != nil {
		return err
	}
	return testimage.Save(filepath.Join(b.images, "busybox.tar"), "busybox:latest", img)
}

func TestScripts(t *testing.T) {
	b := setUp(t)
	t.Run("script", func(t *testing.T) { b.scripts(t, "testdata/script") })
	if b.person == asRoot {
		t.Run("root", func(t *testing.T) { b.scripts(t, "testdata/root") })
	}
}

func (b *bench) scripts(t *testing.T, dir string) {
	if found, _ := filepath.Glob(filepath.Join(dir, "*.txtar")); len(found) == 0 {
		return // testscript fails on an empty directory
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		Setup:               b.setUpScript,
		Condition:           b.condition,
		Cmds:                b.commands(),
	})
}

func (b *bench) setUpScript(env *testscript.Env) error {
	// Scripts about networks, by their names.
	if name := filepath.Base(env.WorkDir); strings.HasPrefix(name, "script-network") || strings.HasPrefix(name, "script-reach") {
		if err := ownNetwork(); err != nil {
			return err
		}
	}
	s, err := b.newStore(filepath.Join(env.WorkDir, "home"))
	if err != nil {
		return err
	}
	env.Vars = append(env.Vars, s.environ()...)
	env.Vars = append(env.Vars,
		"IMAGES="+b.images,
		"CAIS="+b.cais,
		"UID="+strconv.Itoa(os.Getuid()),
		"GID="+strconv.Itoa(os.Getgid()),
		"BOX="+b.box.Name,
		"HOST4="+nettest.Host4, "HOST6="+nettest.Host6, "WORLD4="+nettest.World4, "WORLD6="+nettest.World6,
	)
	env.Values[keyStore{}] = s
	env.Defer(func() {
		if err := s.finish(); err != nil {
			env.T().Fatal("left behind: ", err)
		}
	})
	return nil
}

type keyStore struct{}

// condition answers [world], [root], [user], [sub], [nosub], [shell] and [torture].
func (b *bench) condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return b.person == asRoot, nil
	case "user":
		return b.person != asRoot, nil
	case "sub":
		return b.person == withSubs, nil
	case "nosub":
		return b.person == noSubs, nil
	case "shell":
		return b.box.HasShell(), nil
	case "world":
		return os.Getenv(worldEnv) != "", nil
	case "torture":
		return os.Getenv("CAIS_TORTURE") != "", nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// TestUsers runs the scripts, the recorded lines and the hundred at once again as
// each of the two users that make setup has
// made: in a process of this test's own, so that all in a script is that user's.
func TestUsers(t *testing.T) {
	if os.Getenv("CAIS_E2E") != "root" {
		return // make e2e-root asks for it
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b := setUp(t)
	if only := os.Getenv("CAIS_E2E_RUN"); only == "" || strings.Contains(only, "upgrade") {
		if _, err := b.buildNext(); err != nil { // the users have no sources
			t.Fatal(err)
		}
	}
	for _, p := range []person{withSubs, noSubs} {
		t.Run(string(p), func(t *testing.T) {
			u, err := user.Lookup("cais-" + string(p))
			var unknown user.UnknownUserError
			if errors.As(err, &unknown) {
				t.Skip("useradd is not installed: there is no user cais-" + string(p))
			} else if err != nil {
				t.Fatal(err)
			}
			if _, ok := lookPath("newuidmap"); p == withSubs && !ok {
				t.Skip("newuidmap is not installed")
			}
			b.runAs(t, u)
		})
	}
}

func (b *bench) runAs(t *testing.T, u *user.User) {
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	// own is the user's bench; the test's program and scripts lie beside it.
	dir := filepath.Join(b.dir, "u"+u.Uid)
	own, tmp := filepath.Join(dir, "o"), filepath.Join(dir, "tmp")
	for _, d := range []string{dir, own, tmp, filepath.Join(dir, "e2e")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{own, tmp} {
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(dir, "e2e", "testdata"), os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(dir, "e2e.test")
	if err := os.WriteFile(exe, self, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bin", "images"} {
		if err := os.Symlink(filepath.Join(b.dir, name), filepath.Join(own, name)); err != nil {
			t.Fatal(err)
		}
	}
	pattern := "^(TestScripts|TestParity|TestConcurrent|TestCorpus|TestNetworkKills|TestConcurrentBuilds|TestInterruptedBuild|TestPartialPull)$"
	if only := os.Getenv("CAIS_E2E_RUN"); only != "" {
		pattern += "/" + only
	}
	cmd := exec.Command(exe, "-test.v", "-test.run="+pattern, "-test.timeout=10m")
	cmd.Dir = filepath.Join(dir, "e2e")
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + u.HomeDir, "USER=" + u.Username,
		"TMPDIR=" + tmp, "CAIS_E2E_DIR=" + own, "CAIS_TORTURE=" + os.Getenv("CAIS_TORTURE"), worldEnv + "=" + os.Getenv(worldEnv),
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	results := parseResults(string(out))
	if len(results) == 0 {
		t.Fatalf("no result: %v\n%s", err, out)
	}
	for _, r := range results {
		t.Run(r.name, func(t *testing.T) {
			switch r.verdict {
			case "FAIL":
				t.Error("\n" + r.output)
			case "SKIP":
				t.Skip(r.reason())
			}
		})
	}
	if err != nil && !t.Failed() {
		t.Errorf("%v\n%s", err, out)
	}
}
