// Package netns enters network namespaces. Without root there is no way back into
// the host's, so a thread that has entered one stays there: it serves it for good,
// or ends. A monitor is made of it.
package netns

import (
	"os"
	"runtime"
	"strconv"
	"syscall"
)

// Thread is an operating system's thread in a namespace of its own choice.
type Thread struct {
	TID  int
	work chan func()
	done chan struct{}
}

// Start makes a thread in the namespace that the descriptor ns refers to, or, if
// it is negative, in a new one.
func Start(ns int) (*Thread, error) {
	t := &Thread{work: make(chan func()), done: make(chan struct{})}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		err := enter(ns)
		t.TID = syscall.Gettid()
		ready <- err
		if err != nil {
			return
		}
		for f := range t.work {
			f()
			t.done <- struct{}{}
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return t, nil
}

// Do calls f on the thread and waits for it. It serves one goroutine at a time.
func (t *Thread) Do(f func()) {
	t.work <- f
	<-t.done
}

// End ends the thread.
func (t *Thread) End() {
	if t != nil {
		close(t.work)
	}
}

// Path is where others find the namespace of the thread tid of process pid.
func Path(pid, tid int) string {
	return "/proc/" + strconv.Itoa(pid) + "/task/" + strconv.Itoa(tid) + "/ns/net"
}

// Visit calls f in the namespace that the descriptor ns refers to.
func Visit(ns int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this function
		err := enter(ns)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

func enter(ns int) error {
	if ns < 0 {
		return os.NewSyscallError("unshare(CLONE_NEWNET)", syscall.Unshare(syscall.CLONE_NEWNET))
	}
	_, _, errno := syscall.RawSyscall(sysSetns, uintptr(ns), syscall.CLONE_NEWNET, 0)
	if errno != 0 {
		return os.NewSyscallError("setns(CLONE_NEWNET)", errno)
	}
	return nil
}

// Open opens a namespace by its path.
func Open(path string) (int, error) {
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

// Sysctl writes a setting of the calling thread's namespace; key is with slashes,
// below /proc/sys.
func Sysctl(key, value string) error {
	path := "/proc/sys/" + key
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	_, err = syscall.Write(fd, []byte(value))
	_ = syscall.Close(fd) // the write told
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}
