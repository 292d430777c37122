package lower

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
)

func TestMain(m *testing.M) {
	if os.Args[0] == launch.Init {
		os.Exit(launch.Main())
	}
	runtime.LockOSThread() // children die with the thread that made them
	os.Exit(m.Run())
}

// container is what a test runs: a spec like the planner's, and a busybox.
type container struct {
	spec *specs.Spec
	o    Options
	dir  string
}

// inNamespace runs the test again as root of a user namespace of one id when we
// are an ordinary user; it says whether to go on here.
func inNamespace(t testing.TB) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+strings.Split(t.Name(), "/")[0]+"$", "-test.v")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
		t.Skip("needs user namespaces: ", err)
	}
	if err != nil {
		t.Errorf("in a user namespace: %v\n%s", err, out)
	}
	return false
}

// inUserNS says that this process is in a user namespace.
func inUserNS() bool {
	b, _ := os.ReadFile("/proc/self/uid_map")
	return !strings.Contains(string(b), "4294967295")
}

func newContainer(t testing.TB, args ...string) *container {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Skip("busybox is not installed")
	}
	dir, err := os.MkdirTemp("", "lower")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"image/bin", "image/etc", "image/proc", "image/sys", "image/dev", "image/tmp", "upper", "work", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "image/tmp"), 0o1777); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "image/bin/busybox"), b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields("sh cat ls id mount true grep echo sleep readlink stat touch mkdir chmod hostname umask ps kill tr wc env head sort sed") {
		if err := os.Symlink("busybox", filepath.Join(dir, "image/bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	nested := inUserNS()
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}
	ns := []specs.LinuxNamespace{}
	for _, k := range []specs.LinuxNamespaceType{"pid", "network", "mount", "ipc", "uts", "cgroup"} {
		ns = append(ns, specs.LinuxNamespace{Type: k})
	}
	fs := func(target, kind, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: kind, Source: source, Options: options}
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}
	return &container{dir: dir, spec: &specs.Spec{
		Hostname: "box",
		Root:     &specs.Root{Path: filepath.Join(dir, "run")},
		Process: &specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/sbin:/bin", "A=b"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}},
		Mounts: []specs.Mount{
			fs("/proc", "proc", "proc", "nosuid", "noexec", "nodev"),
			fs("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			fs("/dev/pts", "devpts", "devpts", pts...),
			fs("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			fs("/sys/fs/cgroup", "cgroup", "cgroup", "ro", "nosuid", "noexec", "nodev"),
			fs("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			fs("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=67108864"),
		},
		Linux: &specs.Linux{Namespaces: ns,
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/acpi", "/sys/firmware", "/proc/none"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Sysctl:        map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}},
	}, o: Options{InUserNS: nested, SingleID: nested,
		Overlay: &Overlay{Lower: []string{filepath.Join(dir, "image")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), UserXattr: nested}}}
}

// start starts the container with out as stdout and stderr.
func (c *container) start(t testing.TB, out *os.File) (*launch.Proc, error) {
	t.Helper()
	return startPlan(c.plan(t), noSlots(), out)
}

// up starts a container that says "up", and returns what it says behind that.
func (c *container) up(t *testing.T) (*launch.Proc, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	pr, err := c.start(t, w)
	w.Close()
	if err == nil {
		_, err = io.ReadFull(r, []byte("up\n"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return pr, r
}

// plan is the container's, as a monitor gets it.
func (c *container) plan(t testing.TB) *wire.Plan {
	t.Helper()
	p, err := Run(c.spec, c.o)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = wire.UnmarshalPlan(p.Marshal()); err != nil {
		t.Fatal(err)
	}
	return p
}

// startPlan starts p with out as stdout and stderr, and opens its gate.
func startPlan(p *wire.Plan, slots *[wire.NumSlots]int, out *os.File) (*launch.Proc, error) {
	slots[wire.SlotStdout], slots[wire.SlotStderr] = int(out.Fd()), int(out.Fd())
	pr, err := launch.Start(p, slots)
	if err != nil {
		return nil, err
	}
	if pr.Gated {
		err = pr.Release()
	}
	return pr, err
}

func noSlots() *[wire.NumSlots]int {
	var s [wire.NumSlots]int
	for i := range s {
		s[i] = -1
	}
	return &s
}

// run returns the container's output and exit code, and the error of its start.
func (c *container) run(t testing.TB) (string, int, error) {
	t.Helper()
	return runPlan(t, c.plan(t), noSlots())
}

// runPlan is run with a plan that was changed, or with descriptors of its own.
func runPlan(t testing.TB, p *wire.Plan, slots *[wire.NumSlots]int) (string, int, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	pr, err := startPlan(p, slots, w)
	w.Close()
	if err != nil {
		return "", -1, err
	}
	defer pr.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(out), wait(t, pr.PID), nil
}

func wait(t testing.TB, pid int) int {
	t.Helper()
	var ws syscall.WaitStatus
	for {
		got, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || got != pid {
			t.Fatalf("wait for %d: %d, %v", pid, got, err)
		}
		if ws.Signaled() {
			return 128 + int(ws.Signal())
		}
		return ws.ExitStatus()
	}
}

// sh is newContainer with a script.
func sh(t testing.TB, script string) *container { return newContainer(t, "sh", "-c", script) }

func mustRun(t testing.TB, c *container) string {
	t.Helper()
	out, code, err := c.run(t)
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, out)
	}
	return out
}

func TestRun(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	out := mustRun(t, sh(t, `echo pid $$; hostname; id -u; echo A=$A; cat /proc/sys/net/ipv4/ip_unprivileged_port_start
		ls /dev | sort | tr '\n' ' '; echo; cat /sys/class/net/lo/operstate; ls /; umask; readlink /dev/ptmx
		grep -E '^(Cap|NoNewPrivs|SigIgn|SigBlk)' /proc/self/status; ls -l /proc/1/fd | wc -l; echo x > /dev/null && echo null ok; stat -c %a /tmp /dev/shm`))
	t.Log(out)
	for _, want := range []string{"pid 1\n", "box\n", "A=b\n", "0022\n", "pts/ptmx\n", "CapInh:\t0000000000000000", "CapBnd:\t00000000000004eb", "CapEff:\t00000000000004eb",
		"SigIgn:\t0000000000000000", "NoNewPrivs:\t0", "null ok", "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}

func TestExitCodesOfStart(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	tests := []struct {
		arg  string
		code int
		text string
	}{
		{"nope", 127, `exec "nope": executable file not found in $PATH`},
		{"/bin/nope", 127, `exec "/bin/nope": no such file or directory`},
		{"/etc", 126, `exec "/etc": permission denied`},
		{"script", 126, `exec "script": permission denied`},
	}
	for _, tt := range tests {
		c := newContainer(t, tt.arg)
		if err := os.WriteFile(filepath.Join(c.dir, "image/bin/script"), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		_, _, err := c.run(t)
		e, ok := errors.AsType[*launch.StepError](err)
		if !ok || e.ExitCode() != tt.code || e.Error() != tt.text {
			t.Errorf("%s: %v, want code %d, %s", tt.arg, err, tt.code, tt.text)
		}
	}
}
