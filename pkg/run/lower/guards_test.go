package lower

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/wire"
)

// Second lines, each shown without the first: a plan is changed so that what the
// first would have kept away is there. docs/SECURITY.md says which rule is which.

// find returns the index of the last call nr of p whose text begins with what.
func find(t *testing.T, p *wire.Plan, what string, nr uint16) int {
	t.Helper()
	for i, s := range slices.Backward(p.Steps) {
		if s.Op == wire.OpCall && s.Nr == nr && strings.HasPrefix(p.Text(s.What), what) {
			return i
		}
	}
	t.Fatalf("the plan has no %s %q:\n%s", callName(uintptr(nr)), what, List(p))
	return -1
}

// insert puts a call behind step at of p, where no jump leads across.
func insert(p *wire.Plan, at int, nr uint16, args ...wire.Arg) {
	s := wire.Step{Op: wire.OpCall, Nr: nr}
	copy(s.Args[:], args)
	p.Steps = slices.Insert(p.Steps, at+1, s)
}

// hostRoot opens the host's root without close-on-exec.
func hostRoot(t *testing.T) int {
	t.Helper()
	fd, err := syscall.Open("/", syscall.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) }) // a directory
	return fd
}

// The child keeps the descriptors of its slots from its first instruction on: what
// closes them for the program is the plan's last close_range alone.
func TestNoSlotReachesTheProgram(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fd := hostRoot(t)
	slots := noSlots()
	slots[wire.SlotUser0] = fd
	out, _, err := runPlan(t, sh(t, "readlink /proc/self/fd/"+itoa(fd)+"; echo end").plan(t), slots)
	if err != nil || out != "end\n" {
		t.Errorf("descriptor %d in the container: %q, %v", fd, out, err)
	}
}

// A working directory of the host's, however the process came to it, ends the start.
func TestWorkdirOutsideIsNoticed(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	p := sh(t, "ls").plan(t)
	insert(p, find(t, p, "change to the working directory", unix.SYS_FCHDIR), unix.SYS_FCHDIR, wire.InSlot(wire.SlotUser0))
	slots := noSlots()
	slots[wire.SlotUser0] = hostRoot(t)
	out, _, err := runPlan(t, p, slots)
	if !errors.Is(err, unix.EXDEV) {
		t.Errorf("got %v, want EXDEV; the program saw %q", err, out)
	}
}

// Once the root is there, mounts go to descriptors: a path could be swapped.
func TestMountsGoByDescriptor(t *testing.T) {
	c := sh(t, "true")
	c.spec.Process.Terminal = true
	c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: "/data", Type: "bind", Source: "/etc", Options: []string{"rbind"}})
	c.o.Files = []File{{Target: "/etc/hosts", Source: "/dev/null"}}
	p := c.plan(t)
	places := 0
	for i := find(t, p, "mount the image's layers", unix.SYS_MOVE_MOUNT) + 1; i < len(p.Steps); i++ {
		s := &p.Steps[i]
		switch {
		case s.Op != wire.OpCall || strings.HasPrefix(p.Text(s.What), "mount the image's layers"): // an older kernel's way to the same
		case s.Nr == unix.SYS_MOVE_MOUNT:
			places++
			if s.Args[2].Kind != wire.ArgReg || p.Text(uint32(s.Args[3].Value)) != "" || s.Args[4].Value != movedByFD {
				t.Errorf("step %d mounts by a path: %s", i, p.Text(s.What))
			}
		case s.Nr == unix.SYS_MOUNT:
			t.Errorf("step %d mounts by a path: %s", i, p.Text(s.What))
		}
	}
	if places < 15 {
		t.Errorf("only %d mounts were looked at", places)
	}
}

// What masks is looked at: were the host's null device a file, it could be written to.
func TestNullDeviceIsChecked(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	fake := filepath.Join(t.TempDir(), "null")
	if err := os.WriteFile(fake, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	slots := noSlots()
	slots[wire.SlotStdin], slots[wire.SlotStdout], slots[wire.SlotStderr] = int(null.Fd()), int(null.Fd()), int(null.Fd())
	p, done := sh(t, "true").plan(t), make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread's mount namespace goes with it
		err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount(fake, "/dev/null", "", unix.MS_BIND, ""))
		if err == nil {
			var pr *launch.Proc
			if pr, err = launch.Start(p, slots); err == nil {
				pr.Abort()
			}
		}
		done <- err
	}()
	if err := <-done; !errors.Is(err, unix.ENODEV) {
		t.Errorf("got %v, want ENODEV", err)
	}
}

// What is written to the kernel gets there, or the start fails: not to files that a
// mount put in the place of the kernel's.
func TestProcFilesAreTheKernels(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for _, tt := range []struct {
		name, at, file string
		change         func(*specs.Spec)
	}{
		{"sysctl", "/proc/sys", "net/ipv4/ip_unprivileged_port_start", func(*specs.Spec) {}},
		{"SELinux", "/proc/thread-self/attr", "exec", func(s *specs.Spec) { s.Process.SelinuxLabel = "a:b:c:d" }},
		{"AppArmor", "/proc/thread-self/attr", "apparmor/exec", func(s *specs.Spec) { s.Process.ApparmorProfile = "profile" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, fake := sh(t, "true"), t.TempDir()
			file := filepath.Join(fake, tt.file)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("untouched"), 0o666)); err != nil {
				t.Fatal(err)
			}
			c.spec.Mounts = append(c.spec.Mounts, specs.Mount{Destination: tt.at, Type: "bind", Source: fake, Options: []string{"bind"}})
			tt.change(c.spec)
			if _, _, err := c.run(t); !errors.Is(err, unix.EXDEV) {
				t.Errorf("got %v, want EXDEV", err)
			}
			if b, err := os.ReadFile(file); string(b) != "untouched" {
				t.Errorf("the file in between got %q, %v", b, err)
			}
		})
	}
}

// A label that cannot be set ends the start: here no security module takes one.
func TestLabelsMustBeTaken(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err == nil {
		t.Skip("SELinux is here, and might take it")
	}
	c := sh(t, "true")
	c.spec.Process.SelinuxLabel = "a:b:c:d"
	if _, _, err := c.run(t); err == nil || !strings.Contains(err.Error(), "security label") {
		t.Errorf("got %v", err)
	}
	c.spec.Mounts = slices.DeleteFunc(c.spec.Mounts, func(m specs.Mount) bool { return m.Type == "proc" })
	if _, err := Run(c.spec, c.o); err == nil {
		t.Error("a label was accepted for a container without a /proc of its own")
	}
}

// Who enters a container is hidden from it to the end, when it has no more power than
// what is there: its descriptors and its program are the host's until the execve.
func TestHiddenWhileEntering(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for name, plan := range map[string]func(*testing.T, *container, int) (*wire.Plan, error){
		"exec": func(_ *testing.T, c *container, _ int) (*wire.Plan, error) {
			return Exec(c.spec, c.spec.Process, ExecOptions{InUserNS: c.o.InUserNS, SingleID: c.o.SingleID})
		},
		"run --pid container:": func(t *testing.T, _ *container, first int) (*wire.Plan, error) {
			c := newContainer(t, "/bin/true")
			c.o.NoGate = true
			for i := range c.spec.Linux.Namespaces {
				if ns := &c.spec.Linux.Namespaces[i]; ns.Type == specs.PIDNamespace {
					ns.Path = "/proc/" + itoa(first) + "/ns/pid"
				}
			}
			return Run(c.spec, c.o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, pr, r := watcher(t)
			defer pr.Close()
			defer r.Close()
			p, err := plan(t, c, pr.PID)
			if err != nil {
				t.Fatal(err)
			}
			insert(p, find(t, p, "exec", unix.SYS_EXECVE)-1, unix.SYS_PPOLL) // it stays there until the container ends
			slots := noSlots()
			slots[wire.SlotInit] = pr.PidFD
			entered := make(chan error)
			go func() {
				runtime.LockOSThread() // it dies with its thread
				ex, err := launch.Start(p, slots)
				if err == nil {
					ex.Abort()
				}
				entered <- err
			}()
			out, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			wait(t, pr.PID)
			if err := <-entered; err == nil {
				t.Error("it came further than its plan lets it")
			}
			if string(out) != "end\n" {
				t.Errorf("the container sees of it %q", out)
			}
		})
	}
}

// watcher starts a container that waits for a second process in it, which has all its
// capabilities and no more, and tells what it sees of that.
func watcher(t *testing.T) (*container, *launch.Proc, *os.File) {
	t.Helper()
	c := newContainer(t, "/bin/sh", "-c", `echo up
		while :; do for p in /proc/[0-9]*; do case $p in /proc/1) ;; *) break 2; esac; done; done
		cd $p
		while ! grep -q '^CapEff:.*4eb$' status; do :; done
		for f in exe root cwd fd/*; do readlink $f; done; echo end`)
	pr, r := c.up(t)
	return c, pr, r
}
