package launch

import (
	"errors"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/run/wire"
)

func TestMain(m *testing.M) {
	if os.Args[0] == Init {
		os.Exit(Main())
	}
	runtime.LockOSThread() // children die with the thread that made them
	os.Exit(m.Run())
}

func none() *[wire.NumSlots]int {
	var s [wire.NumSlots]int
	for i := range s {
		s[i] = -1
	}
	return &s
}

// script adds the steps that run sh with stdout in the slot.
func script(b *wire.Builder, text string) {
	b.Call("stdout", syscall.SYS_DUP3, wire.InSlot(wire.SlotStdout), 1, 0)
	b.Call("stderr", syscall.SYS_DUP3, wire.InSlot(wire.SlotStdout), 2, 0)
	b.Call("exec sh", syscall.SYS_EXECVE, "/bin/sh", b.Texts([]string{"sh", "-c", text}), b.Texts([]string{"PATH=/usr/bin:/bin"})).Final = true
}

func mustPlan(t testing.TB, b *wire.Builder) *wire.Plan {
	t.Helper()
	p, err := b.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// output starts the plan and returns what it wrote and how it ended.
func output(t *testing.T, p *wire.Plan) (string, syscall.WaitStatus) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	slots := none()
	slots[wire.SlotStdout] = int(w.Fd())
	pr, err := Start(p, slots)
	if err != nil {
		w.Close()
		t.Fatal(err)
	}
	defer pr.Close()
	if pr.Gated {
		if err := pr.Release(); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	status, ok := reap(pr.PID)
	if !ok {
		t.Fatalf("pid %d is not our child", pr.PID)
	}
	return string(out), status
}

func TestRunsAProgram(t *testing.T) {
	var b wire.Builder
	script(&b, "echo hello; exit 7")
	out, status := output(t, mustPlan(t, &b))
	if out != "hello\n" || status.ExitStatus() != 7 {
		t.Errorf("got %q, %v", out, status)
	}
}

func TestNamesTheFailedStep(t *testing.T) {
	tests := []struct {
		name  string
		build func(*wire.Builder)
		want  StepError
		code  int
	}{
		{"a step", func(b *wire.Builder) {
			b.Call("close nothing", syscall.SYS_CLOSE, -1).Ignore()
			b.Call("change to /no/where", syscall.SYS_CHDIR, "/no/where")
		}, StepError{Index: 1, What: "change to /no/where", Errno: syscall.ENOENT}, 125},
		{"not there", func(b *wire.Builder) {
			b.Call("exec nope", syscall.SYS_EXECVE, "/nope", b.Texts(nil), b.Texts(nil)).Final = true
		}, StepError{Index: 0, What: "exec nope", Errno: syscall.ENOENT, Phase: PhaseExec}, 127},
		{"not executable", func(b *wire.Builder) {
			b.Call("exec /etc", syscall.SYS_EXECVE, "/etc", b.Texts(nil), b.Texts(nil)).Final = true
		}, StepError{Index: 0, What: "exec /etc", Errno: syscall.EACCES, Phase: PhaseExec}, 126},
		{"killed", func(b *wire.Builder) {
			pid := b.NewReg()
			b.Call("ask for the pid", syscall.SYS_GETPID).To(pid)
			b.Call("kill itself", syscall.SYS_KILL, pid, 9)
		}, StepError{Index: 1, What: "kill itself", Signal: syscall.SIGKILL}, 125},
		{"no execve", func(b *wire.Builder) {
			b.Call("sync nothing", syscall.SYS_GETPID)
		}, StepError{Index: 1, What: "the plan's end", Errno: syscall.ELOOP}, 125},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b wire.Builder
			tt.build(&b)
			_, err := Start(mustPlan(t, &b), none())
			e, ok := errors.AsType[*StepError](err)
			if !ok || *e != tt.want || e.ExitCode() != tt.code {
				t.Errorf("got %#v, want %#v with code %d", err, tt.want, tt.code)
			}
		})
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a failed start left a child: %v", err)
	}
}

func TestRegistersJumpsAndMemory(t *testing.T) {
	var b wire.Builder
	mem, r := b.Words(wire.Num(0x1234)), b.NewReg()
	b.Do(wire.OpLoad, "load", 0, mem, 2).To(r)
	skip := b.Jump(wire.OpJumpEq, r, 0x1234)
	b.Do(wire.OpFail, "load read something else", 0, int(syscall.EBADE))
	b.Land(skip)
	b.Do(wire.OpAnd, "and", 0, r, 0xff).To(r)
	b.Do(wire.OpStore, "store", 0, mem, r, 8)
	b.Do(wire.OpLoad, "load", 0, mem, 8).To(r)
	skip = b.Jump(wire.OpJumpEq, r, 0x34)
	b.Do(wire.OpFail, "and or store is wrong", 0, int(syscall.EBADE))
	b.Land(skip)
	b.Call("expected", syscall.SYS_CLOSE, -1).Expect(1, uint16(syscall.EBADF)).To(r)
	place := b.Last()
	b.Do(wire.OpFail, "the expected error did not skip", 0, int(syscall.EBADE))
	b.Land(place)
	skip = b.Jump(wire.OpJumpEq, r, -int(syscall.EBADF))
	b.Do(wire.OpFail, "the expected error was not saved", 0, int(syscall.EBADE))
	b.Land(skip)
	script(&b, "true")
	if _, status := output(t, mustPlan(t, &b)); status != 0 {
		t.Error(status)
	}
}

func TestGate(t *testing.T) {
	var b wire.Builder
	msg := b.Bytes([]byte{wire.MsgGate})
	b.Call("tell that it waits", syscall.SYS_WRITE, wire.InSlot(wire.SlotSync), msg, 1)
	b.Call("wait for the start", syscall.SYS_READ, wire.InSlot(wire.SlotSync), msg, 1)
	gated := b
	script(&gated, "echo through")
	if out, _ := output(t, mustPlan(t, &gated)); out != "through\n" {
		t.Errorf("got %q", out)
	}
	b.Call("exec nope", syscall.SYS_EXECVE, "/nope", b.Texts(nil), b.Texts(nil)).Final = true
	pr, err := Start(mustPlan(t, &b), none())
	if err != nil || !pr.Gated || pr.PID == 0 || pr.PidFD < 0 {
		t.Fatalf("Start = %+v, %v", pr, err)
	}
	e, ok := errors.AsType[*StepError](pr.Release())
	if !ok || e.Errno != syscall.ENOENT || e.ExitCode() != 127 {
		t.Errorf("Release = %v", e)
	}
}

// TestFork checks that the process behind a fork step is our child, and that the
// one before it is gone.
func TestFork(t *testing.T) {
	var b wire.Builder
	b.Do(wire.OpFork, "fork", 0, 0)
	script(&b, "echo $PPID")
	out, status := output(t, mustPlan(t, &b))
	if want := os.Getpid(); status != 0 || strings.TrimSpace(out) != itoa(want) {
		t.Errorf("parent %q, %v; want %d", out, status, want)
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a child is left: %v", err)
	}
	var c wire.Builder
	c.Do(wire.OpFork, "fork", 0, 0)
	c.Call("fail behind it", syscall.SYS_CLOSE, -1)
	if _, err := Start(mustPlan(t, &c), none()); !errors.Is(err, syscall.EBADF) {
		t.Errorf("got %v, want EBADF", err)
	}
	if _, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a child is left: %v", err)
	}
}

// TestCleanProcess checks what a program may expect of its parent.
// Between clone and execve the child can be seen from inside a container.
func TestChildHasNothingButItsSlots(t *testing.T) {
	var fds []int
	for range 40 {
		fd, err := syscall.Open("/", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer syscall.Close(fd)
		fds = append(fds, fd)
	}
	slots := none()
	slots[wire.SlotUser0], slots[wire.SlotUser0+1] = fds[7], fds[20]
	for _, fd := range fds {
		var b wire.Builder
		b.Call("look", syscall.SYS_FCNTL, fd, syscall.F_GETFD, 0)
		script(&b, "exit 0")
		pr, err := Start(mustPlan(t, &b), slots)
		if err == nil {
			pr.Abort()
		}
		if kept := fd == fds[7] || fd == fds[20]; kept != (err == nil) || !kept && !errors.Is(err, syscall.EBADF) {
			t.Errorf("descriptor %d, kept: %v: %v", fd, kept, err)
		}
	}
}

func TestCleanProcess(t *testing.T) {
	var b wire.Builder
	script(&b, "grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd | wc -l")
	out, _ := output(t, mustPlan(t, &b))
	for _, line := range []string{"SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"} {
		if !strings.Contains(out, line) {
			t.Errorf("%q lacks %q", out, line)
		}
	}
}

func itoa(n int) string {
	s := ""
	for ; n > 0; n /= 10 {
		s = string(rune('0'+n%10)) + s
	}
	return s
}

func BenchmarkStart(b *testing.B) {
	var bld wire.Builder
	bld.Call("exec true", syscall.SYS_EXECVE, "/bin/true", bld.Texts([]string{"true"}), bld.Texts(nil)).Final = true
	p := mustPlan(b, &bld)
	for b.Loop() {
		pr, err := Start(p, none())
		if err != nil {
			b.Fatal(err)
		}
		reap(pr.PID)
		pr.Close()
	}
}

// TestDiesWithItsThread: a container must not outlive its monitor, and the
// kernel tells by the thread that made the child.
func TestDiesWithItsThread(t *testing.T) {
	var b wire.Builder
	const prSetPdeathsig = 1
	b.Call("die with the parent", syscall.SYS_PRCTL, prSetPdeathsig, int(syscall.SIGKILL))
	script(&b, "while :; do :; done")
	p := mustPlan(t, &b)
	done := make(chan *Proc)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		pr, err := Start(p, none())
		if err != nil {
			t.Error(err)
		}
		done <- pr
	}()
	pr := <-done
	if pr == nil {
		return
	}
	defer pr.Close()
	if status, ok := reap(pr.PID); !ok || status.Signal() != syscall.SIGKILL {
		t.Errorf("status %v, %v", status, ok)
	}
}
