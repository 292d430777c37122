package seccomp

import (
	"runtime"
	"syscall"
	"testing"
	"unsafe"
)

// TestKernelTakesTheFilter loads the default filter in a thread that ends with
// the test, and asks it a few calls.
func TestKernelTakesTheFilter(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("seccomp kernel test: its call numbers are amd64's")
	}
	f, err := Load("", defaults("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	type answer struct {
		what      string
		got, want syscall.Errno
	}
	answers := make(chan []answer)
	loaded := make(chan error, 1)
	go func() {
		defer close(answers)
		runtime.LockOSThread() // never unlocked: the thread, and the filter, end here
		if err := load(f); err != nil {
			loaded <- err
			return
		}
		loaded <- nil
		call := func(what string, want syscall.Errno, nr, a0 uintptr) answer {
			_, _, errno := syscall.RawSyscall(nr, a0, 0, 0)
			return answer{what, errno, want}
		}
		answers <- []answer{
			call("getpid", 0, syscall.SYS_GETPID, 0),
			call("socket AF_ALG", syscall.EPERM, syscall.SYS_SOCKET, 38),
			call("socket AF_VSOCK", syscall.EPERM, syscall.SYS_SOCKET, 40),
			call("keyctl", syscall.EPERM, 250, 0),
			call("unshare", syscall.EPERM, syscall.SYS_UNSHARE, syscall.CLONE_NEWUSER),
			call("clone3", syscall.ENOSYS, 435, 0),
			call("a call of the future", syscall.ENOSYS, 5000, 0),
			call("x32", syscall.ENOSYS, x32Bit+39, 0),
			call("personality", 0, syscall.SYS_PERSONALITY, 0xffffffff),
		}
	}()
	if err := <-loaded; err != nil {
		t.Skipf("seccomp kernel test: this process may not load filters: %v", err)
	}
	for _, a := range <-answers {
		if a.got != a.want {
			t.Errorf("%s: got %v, want %v", a.what, a.got, a.want)
		}
	}
}

func load(f Filter) error {
	const prSetNoNewPrivs, seccomp, setModeFilter = 38, 317, 1
	if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0); errno != 0 {
		return errno
	}
	prog := struct {
		n    uint16
		code unsafe.Pointer
	}{uint16(len(f.Code) / 8), unsafe.Pointer(&f.Code[0])}
	if _, _, errno := syscall.RawSyscall(seccomp, setModeFilter, uintptr(f.Flags), uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}
