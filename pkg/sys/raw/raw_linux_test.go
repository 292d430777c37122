package raw

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

func TestPidfd(t *testing.T) {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	fd, err := PidfdOpen(cmd.Process.Pid)
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
