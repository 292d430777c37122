package session

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cais.dev/cais/pkg/errs"
)

// needStrangers skips a test that cannot be somebody else, before it starts anything.
func needStrangers(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to be somebody else")
	}
}

// asStranger runs f in a thread of another user, which ends with it.
func asStranger(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good
		// The thread alone, not the process, as package syscall would have it.
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, ^uintptr(0), 12345, ^uintptr(0)); errno != 0 {
			done <- errno
			return
		}
		done <- f()
	}()
	return <-done
}

// open lets everybody in, as only a mistake would.
func open(t *testing.T, dir string) {
	t.Helper()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o777); err != nil {
			t.Fatal(err)
		}
	}
}

// A monitor listens to its user and to root, whatever the modes are.
func TestStrangersAreNotHeard(t *testing.T) {
	needStrangers(t)
	b := newBox(t, "read x; exit 3")
	b.job.OpenStdin = true
	first := b.start(everything)
	open(t, b.job.RunDir)
	if err := os.Chmod(filepath.Join(b.job.RunDir, "attach"), 0o777); err != nil {
		t.Fatal(err)
	}
	err := asStranger(t, func() error {
		s, err := Attach(t.Context(), b.dir, everything)
		if err == nil {
			return s.Close()
		}
		if errors.Is(err, syscall.EACCES) {
			t.Errorf("he did not come as far as the socket: %v", err)
		}
		return err
	})
	if err == nil {
		t.Error("another user is attached")
	}
	if x, _ := finish(t, first, Streams{In: strings.NewReader("\n")}); x.Code != 3 {
		t.Errorf("exit %+v, want 3", x)
	}
}

// Nor is anything told to who listens in a monitor's place.
func TestStrangersAreNotTold(t *testing.T) {
	needStrangers(t)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "run"), 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, filepath.Join(dir, "run"))
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	d, err := os.Open(filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	err = asStranger(t, func() error {
		name := "/proc/self/fd/" + strconv.Itoa(int(d.Fd())) + "/attach"
		return errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: name}), syscall.Listen(fd, 1))
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dial(dir); errs.KindOf(err) != errs.Denied {
		t.Errorf("got %v, want Denied", err)
	}
}

// Who sees a monitor, as a container with the host's processes does, cannot change
// the program through it.
func TestMonitorsProgramIsReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: others do not own the program, mostly")
	}
	b := newBox(t, "read x")
	b.job.OpenStdin = true
	s := b.start(everything)
	exe := "/proc/" + strconv.Itoa(b.state().MonitorPID) + "/exe"
	if err := os.Chmod(exe, 0o755); !errors.Is(err, syscall.EROFS) {
		t.Errorf("chmod: %v, want EROFS", err)
	}
	finish(t, s, Streams{In: strings.NewReader("\n")})
}
