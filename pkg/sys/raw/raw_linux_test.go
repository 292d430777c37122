package raw

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
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

func TestSignalfd(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set := Of(syscall.SIGUSR2)
	old, err := Mask(Block, set)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := Mask(SetMask, old); err != nil {
			t.Error(err)
		}
	}()
	if now, err := Mask(Block, 0); err != nil || now&set == 0 {
		t.Fatalf("mask %x, %v; want SIGUSR2 in it", now, err)
	}
	fd, err := Signalfd(set)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 128)
	if n, err := syscall.Read(fd, b); n != 128 || b[0] != byte(syscall.SIGUSR2) {
		t.Errorf("read %d bytes, signal %d, %v; want SIGUSR2", n, b[0], err)
	}
}
