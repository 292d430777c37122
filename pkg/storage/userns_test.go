package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
)

// inU makes cmd root of a new user namespace with mappings like those that
// rootless commands run in, and of a mount namespace of its own. As root it
// plays user 100000 with 65536 subordinate ids, or with none; otherwise only
// the latter can be had without helpers.
func inU(cmd *exec.Cmd, uid int, single bool) {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
	if !single {
		ids = append(ids, syscall.SysProcIDMap{ContainerID: 1, HostID: 200000, Size: 65536})
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: !single,
		Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{NoSetGroups: single}, // root inside
	}
	cmd.Path = "/proc/self/exe" // by name, the program may be out of the user's reach
	cmd.Env = append(cmd.Env, "_CONTAINERS_USERNS_CONFIGURED=done", fmt.Sprintf("_CONTAINERS_ROOTLESS_UID=%d", uid), fmt.Sprintf("_CONTAINERS_ROOTLESS_GID=%d", uid))
	if single {
		cmd.Env = append(cmd.Env, "SINGLE=1")
	}
}

// userStore makes the directory of a user's store.
func userStore(t *testing.T, single bool) (dir string, uid int) {
	t.Helper()
	dir, uid = t.TempDir(), os.Getuid()
	if uid == 0 {
		uid = 100000
		if err := os.Chown(dir, uid, uid); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { // this test's, made by TempDir
			t.Fatal(err)
		}
		for up := dir; up != "/"; up = filepath.Dir(up) {
			if fi, err := os.Stat(up); err != nil || fi.Mode()&0o001 == 0 {
				t.Skipf("needs a temporary directory that other users reach: %s is %v", up, fi.Mode())
			}
		}
	} else if !single {
		t.Skip("needs root: a user namespace with many ids")
	}
	return dir, uid
}

func userOptions() Options {
	dir := os.Getenv("ROOT")
	return Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), Rootless: true, Single: os.Getenv("SINGLE") != "", NoSync: true}
}

// fakeTB lets the helpers of the tests run in a process of their own.
type fakeTB struct {
	testing.TB
	ctx context.Context
}

func (fakeTB) Helper()                      {}
func (f fakeTB) Context() context.Context   { return f.ctx }
func (fakeTB) Fatal(args ...any)            { panic(fmt.Sprint(args...)) }
func (fakeTB) Fatalf(s string, args ...any) { panic(fmt.Sprintf(s, args...)) }

func rootlessHelper() (err error) {
	ctx := context.Background()
	s, err := Open(ctx, userOptions())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	t := fakeTB{ctx: ctx}
	lower := gzLayer(t, entry{Name: "gone", Body: "x"}, entry{Name: "d/", UID: 7, GID: 7}, entry{Name: "f", Body: "f", UID: 7, GID: 65000, Mode: 0o4755}, entry{Name: "null", Type: '3', Major: 1, Minor: 3})
	st, err := s.StageLayer(ctx, lower.source())
	if err != nil {
		return err
	}
	fmt.Println("warnings", len(st.Warnings))
	if err := s.Discard(st); err != nil {
		return err
	}
	upper := gzLayer(t, entry{Name: ".wh.gone"}, entry{Name: "d/.wh..wh..opq"}, entry{Name: "l", Link: "f", Type: '2', UID: 9})
	put(t, s, "docker.io/library/mine:1", lower, upper)
	if s.o.Single {
		return nil
	}
	_, err = s.StageLayer(ctx, gzLayer(t, entry{Name: "far", UID: 70000}).source())
	if err == nil || !strings.Contains(err.Error(), `entry "far": it belongs to uid 70000, gid 0, and the ids here are 0 to 65536`) || errs.HintOf(err) == "" {
		return fmt.Errorf("an id outside: %w", err)
	}
	return nil
}

// plainHelper is what `run` does: as the plain user, in no namespace.
func plainHelper() error {
	ctx := context.Background()
	if _, err := Open(ctx, userOptions()); errs.KindOf(err) != errs.Internal {
		return fmt.Errorf("Open outside the user namespace: %w", err)
	}
	r := NewReader(userOptions())
	img, err := r.Image(ctx, "docker.io/library/mine:1")
	if err != nil {
		return err
	}
	dirs, err := r.LowerDirs(ctx, img)
	if err != nil || len(dirs) != 2 {
		return fmt.Errorf("LowerDirs = %q: %w", dirs, err)
	}
	if _, err := r.Config(ctx, img); err != nil {
		return err
	}
	if err := r.AddContainer(ctx, ContainerRef{ID: "c", ImageID: img.ID, Volatile: true}); err != nil {
		return err
	}
	fmt.Println(dirs[0] + " " + dirs[1])
	return nil
}

func TestRootless(t *testing.T) {
	for _, single := range []bool{false, true} {
		t.Run(map[bool]string{false: "with subordinate ids", true: "with one id"}[single], func(t *testing.T) {
			dir, uid := userStore(t, single)
			cmd := helper(t, "rootless", "ROOT="+dir)
			inU(cmd, uid, single)
			out, err := cmd.CombinedOutput()
			if err != nil {
				if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSPC) {
					t.Skipf("needs user namespaces: %v", err)
				}
				t.Fatalf("%v: %s", err, out)
			}
			if want := 1 + btoi(single); !strings.Contains(string(out), fmt.Sprintf("warnings %d\n", want)) { // the device, the owners
				t.Errorf("%s; want %d", out, want)
			}
			if flag, err := os.ReadFile(filepath.Join(dir, "root", "overlay", ".has-mount-program")); err == nil && string(flag) != "false" {
				t.Errorf("the store was marked for fuse-overlayfs: %q", flag)
			}
			cmd = helper(t, "plain", "ROOT="+dir)
			if os.Getuid() == 0 {
				cmd.Path = "/proc/self/exe"
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}
			}
			out, err = cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("as the plain user: %v: %s", err, out)
			}
			upper, lower, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(upper, "gone"), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
				t.Errorf("the whiteout: mode %o, %v", st.Mode, err)
			}
			v := make([]byte, 100)
			if n, err := unix.Lgetxattr(filepath.Join(upper, "d"), "user.overlay.opaque", v); err != nil || string(v[:n]) != "y" {
				t.Errorf("the opaque mark: %q, %v", v[:max(n, 0)], err)
			}
			if err := unix.Lstat(filepath.Join(lower, "f"), &st); err != nil {
				t.Fatal(err)
			}
			if single {
				n, err := unix.Lgetxattr(filepath.Join(lower, "f"), "user.containers.override_stat", v)
				if got := string(v[:max(n, 0)]); err != nil || got != "7:65000:4755:file" || int(st.Uid) != uid {
					t.Errorf("owner %d, recorded %q, %v", st.Uid, got, err)
				}
			} else if st.Uid != 200006 || st.Gid != 264999 || st.Mode&0o7777 != 0o4755 {
				t.Errorf("f is %d:%d, %o", st.Uid, st.Gid, st.Mode)
			}
			if _, err := os.Lstat(filepath.Join(lower, "null")); err == nil {
				t.Error("a device was made")
			}
		})
	}
}

func TestAnotherUsersStoreIsRefusedByName(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: plays another user")
	}
	dir, uid := userStore(t, true)
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o755); err != nil { // root's
		t.Fatal(err)
	}
	cmd := helper(t, "rootless", "ROOT="+dir)
	inU(cmd, uid, true)
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no write access to "+filepath.Join(dir, "root")) {
		t.Errorf("%v: %s", err, out)
	}
}

// fullHelper has a store on a small tmpfs, in a mount namespace of its own.
func fullHelper() error {
	ctx := context.Background()
	dir := os.Getenv("ROOT")
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=80m,nr_inodes=1000"); err != nil {
		return err
	}
	o := userOptions()
	o.Rootless = os.Getenv("_CONTAINERS_USERNS_CONFIGURED") != ""
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	t := fakeTB{ctx: ctx}
	img := put(t, s, "docker.io/library/small:1", gzLayer(t, entry{Name: "a", Body: strings.Repeat("a", 1<<20)}))
	if _, err := os.Stat(s.reservePath()); err != nil {
		return fmt.Errorf("no reserve: %w", err)
	}
	_, err = s.StageLayer(ctx, gzLayer(t, entry{Name: "big", Body: strings.Repeat("b", 90<<20)}).source())
	if !errors.Is(err, unix.ENOSPC) || errs.KindOf(err) != errs.Unavailable || !strings.Contains(err.Error(), "file system "+dir+" is full: ") || errs.HintOf(err) == "" {
		return fmt.Errorf("a layer that is too big: %w", err)
	}
	if left, err := os.ReadDir(filepath.Join(o.GraphRoot, "overlay", "staging")); err != nil || len(left) > 0 {
		return fmt.Errorf("staging holds %v: %w", left, err)
	}
	// Now full to the last byte: reading works, and so does removing.
	f, err := os.Create(filepath.Join(dir, "fill"))
	if err != nil {
		return err
	}
	for err == nil {
		_, err = f.Write(make([]byte, 1<<16))
	}
	for err = nil; err == nil; {
		_, err = f.Write(make([]byte, 1))
	}
	if err := f.Close(); err != nil {
		return err
	}
	s, err = Open(ctx, o)
	if err != nil {
		return fmt.Errorf("open on a full disk: %w", err)
	}
	// What frees nothing leaves the reserve to what does.
	if _, err := s.RemoveImage(ctx, RemoveOptions{}, "docker.io/library/nosuch:1"); errs.KindOf(err) != errs.NotFound {
		return fmt.Errorf("rmi of nothing: %w", err)
	}
	if err := s.Tag(ctx, "docker.io/library/other:1", "docker.io/library/small:1"); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("tag on a full disk: %w", err)
	}
	if _, err := s.RemoveImage(ctx, RemoveOptions{}, "docker.io/library/small:1"); err != nil {
		return fmt.Errorf("rmi on a full disk: %w", err)
	}
	if _, err := s.Reader().Image(ctx, img.ID); errs.KindOf(err) != errs.NotFound {
		return fmt.Errorf("the image is still there: %w", err)
	}
	// A little room is enough for the next reserve, which is of inodes, too.
	if err := os.Truncate(f.Name(), 60<<20); err != nil {
		return err
	}
	if s, err = Open(ctx, o); err != nil {
		return err
	}
	put(t, s, "docker.io/library/small:2", gzLayer(t, entry{Name: "a", Body: "a"}))
	for i := 0; err == nil; i++ {
		err = os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o700)
	}
	if !errors.Is(err, unix.ENOSPC) {
		return err
	}
	if _, err := s.RemoveImage(ctx, RemoveOptions{}, "docker.io/library/small:2"); err != nil {
		return fmt.Errorf("rmi without inodes: %w", err)
	}
	return nil
}

func TestFullDisk(t *testing.T) {
	dir, uid := userStore(t, os.Getuid() != 0)
	cmd := helper(t, "full", "ROOT="+dir)
	if os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	} else {
		inU(cmd, uid, true)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// pullAndRemoveHelper does over and over what pull and rmi do.
func pullAndRemoveHelper() error {
	ctx := context.Background()
	o := userOptions()
	o.Rootless = false
	t := fakeTB{ctx: ctx}
	base := gzLayer(t, entry{Name: "base", Body: strings.Repeat("b", 1<<16)})
	n, err := strconv.Atoi(os.Getenv("N"))
	if err != nil {
		return err
	}
	mine := gzLayer(t, entry{Name: "mine", Body: strings.Repeat(os.Getenv("N"), 1<<16)})
	for i := 0; ; i++ {
		s, err := Open(ctx, o)
		if err != nil {
			return err
		}
		for _, image := range [][]layer{{base}, {base, mine}} {
			put(t, s, fmt.Sprintf("docker.io/library/i%d-%d:1", n, len(image)), image...)
		}
		if _, err := s.RemoveImage(ctx, RemoveOptions{Force: true}, fmt.Sprintf("docker.io/library/i%d-2:1", n)); err != nil {
			return err
		}
		if err := s.Close(); err != nil {
			return err
		}
	}
}

// TestKilledAtRandomSystemCalls kills what changes the store at its n-th system
// call that could change something, and looks at what is left.
func TestKilledAtRandomSystemCalls(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: the store's write side")
	}
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace")
	}
	seeds := 20
	if testing.Short() {
		seeds = 3
	}
	dir := t.TempDir()
	o := Options{GraphRoot: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run"), NoSync: true}
	for seed := range seeds {
		calls := []string{"/^rename", "/^unlink", "openat", "write", "/^mkdir", "pwrite64"}
		call := calls[seed%len(calls)]
		when := 2 + seed*7%20
		cmd := helper(t, "pull-and-remove", "ROOT="+dir, fmt.Sprintf("N=%d", seed%2))
		args := append([]string{"-f", "-qq", "-o", "/dev/null", "-e", "trace=" + call, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", call, when)}, cmd.Args...)
		killed := exec.CommandContext(t.Context(), strace, args...)
		killed.Env = cmd.Env
		out, err := killed.CombinedOutput()
		t.Logf("seed %d, killed at %s number %d of a thread: %v %s", seed, call, when, err, out)
		ageLockless(t, o)
		s := reopen(t, o)
		if _, err := s.Collect(t.Context(), CollectOptions{Age: 1}); err != nil {
			t.Fatalf("seed %d (%s %d): %v", seed, call, when, err)
		}
		intact(t, s)
		if t.Failed() {
			t.Fatalf("seed %d: killed at %s number %d", seed, call, when)
		}
	}
}

// ageLockless makes staging directories whose maker was killed before it could
// lock them look older than any that is just being made.
func ageLockless(t *testing.T, o Options) {
	t.Helper()
	dirs, _ := filepath.Glob(filepath.Join(o.GraphRoot, "overlay", "staging", "*"))
	for _, dir := range dirs {
		if err := os.Chtimes(dir, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
}

// intact checks that records and directories are of one opinion.
func intact(t *testing.T, s *Store) {
	t.Helper()
	clean(t, s)
	imgs, err := s.Reader().Images(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers, err := s.Reader().layers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, img := range imgs {
		chain, err := s.Reader().Layers(t.Context(), img)
		if err != nil {
			t.Error(err)
		}
		for _, l := range chain {
			used[l.ID] = true
		}
		if len(img.Names) == 0 {
			continue
		}
		if _, err := s.Reader().Config(t.Context(), img); err != nil {
			t.Errorf("a named image without config: %v", err)
		}
		if _, err := s.Reader().LowerDirs(t.Context(), img); err != nil {
			t.Error(err)
		}
	}
	dirs := layerDirs(t, s)
	if len(dirs) != len(layers) {
		t.Errorf("directories %v, records %v", dirs, layers)
	}
	for _, id := range dirs {
		if l, ok := layers[id]; !ok || l.incomplete || !used[id] {
			t.Errorf("directory %s: recorded %v, incomplete %v, used %v", id, ok, l.incomplete, used[id])
		}
		if _, err := os.Stat(filepath.Join(s.o.GraphRoot, "overlay-layers", id+".tar-split.gz")); err != nil {
			t.Error(err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(s.stateDir(), "rmi-*")); len(left) != 0 {
		t.Errorf("intents left: %v", left)
	}
}
