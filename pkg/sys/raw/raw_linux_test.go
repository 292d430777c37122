package raw

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPidfd(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := PidfdSignal(fd, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	if err := PidfdSignal(fd, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after its end: %v, want ESRCH", err)
	}
}

func TestIgnore(t *testing.T) {
	Ignore(syscall.SIGUSR2)
	if err := syscall.Kill(os.Getpid(), syscall.SIGUSR2); err != nil { // would end this process
		t.Error(err)
	}
	Default(syscall.SIGUSR2)
}

func TestWait(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if Wait(int(r.Fd()), 1) {
		t.Error("an empty pipe is readable")
	}
	_ = w.Close()
	if !Wait(int(r.Fd()), 10000) {
		t.Error("the end of a pipe is not seen")
	}
}

func TestReadOnlyTwin(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, []byte("here"), 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := ReadOnlyTwin(name)
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) {
		t.Skip("only root can make a mount") // CAP_SYS_ADMIN
	}
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	twin := fmt.Sprintf("/proc/self/fd/%d", fd)
	if b, err := os.ReadFile(twin); err != nil || string(b) != "here" {
		t.Errorf("got %q, %v", b, err)
	}
	if _, err := os.OpenFile(twin, os.O_WRONLY, 0); !errors.Is(err, syscall.EROFS) {
		t.Errorf("writing: %v, want EROFS", err)
	}
	if err := os.Chmod(twin, 0o666); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chmod: %v, want EROFS", err)
	}
}
