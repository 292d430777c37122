// Package raw holds the few Linux system calls that a monitor needs and package
// syscall lacks. Unlike its parent directory's package it imports nothing else:
// what it reaches, every running container pays for.
package raw

import (
	"syscall"
	"unsafe"
)

// System calls newer than package syscall. Their numbers are the same on every
// architecture.
const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
)

func result(r uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// SetWindowSize sets the size of the terminal fd; tty_ioctl(4).
func SetWindowSize(fd int, rows, cols uint16) error {
	w := [4]uint16{rows, cols}
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCSWINSZ, uintptr(unsafe.Pointer(&w)))
	if errno != 0 {
		return errno
	}
	return nil
}

// PidfdOpen returns a handle of the process pid.
func PidfdOpen(pid int) (int, error) {
	fd, _, errno := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), 0, 0)
	return result(fd, errno)
}

// PidfdSignal sends sig to the process that fd refers to.
func PidfdSignal(fd int, sig syscall.Signal) error {
	_, _, errno := syscall.RawSyscall6(sysPidfdSendSignal, uintptr(fd), uintptr(sig), 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Subreaper makes orphaned descendants children of this process; prctl(2).
func Subreaper() error {
	const prSetChildSubreaper = 36
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetChildSubreaper, 1, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// Ignore makes this process ignore sig, behind the Go runtime's back.
func Ignore(sig syscall.Signal) { disposition(sig, 1) }

// Default gives sig its default effect.
func Default(sig syscall.Signal) { disposition(sig, 0) }

func disposition(sig syscall.Signal, handler uint64) {
	action := [4]uint64{handler} // struct sigaction: SIG_DFL or SIG_IGN; flags, restorer and mask zero
	// Only KILL and STOP refuse.
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// Wait waits until fd is readable or hung up, or ms milliseconds have passed. It
// reports whether fd is. Without a descriptor (-1) it only waits.
func Wait(fd, ms int) bool {
	p := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: 1} // POLLIN
	t := syscall.NsecToTimespec(int64(ms) * 1e6)
	n, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&t)), 0, 0, 0)
	return errno == 0 && n == 1
}

// ReadOnlyTwin opens path beneath a mount of its own that is read-only, detached
// and gone with its last descriptor: what is opened through it can be read, or
// executed, or, if it is a device, written to, but neither it nor its mode and
// owner can be changed. That takes CAP_SYS_ADMIN, and Linux 5.12.
func ReadOnlyTwin(path string) (int, error) {
	const (
		sysOpenTree     = 428
		sysMountSetattr = 442
		atFdcwd         = ^uintptr(99) // -100
		clone, cloexec  = 1, syscall.O_CLOEXEC
		emptyPath       = 0x1000
		readOnly        = 1
	)
	name, err := syscall.BytePtrFromString(path)
	if err != nil {
		return -1, err
	}
	fd, err := result2(syscall.Syscall(sysOpenTree, atFdcwd, uintptr(unsafe.Pointer(name)), clone|cloexec))
	if err != nil {
		return -1, err
	}
	attr := [4]uint64{readOnly} // struct mount_attr: set, clear, propagation, user namespace
	empty := byte(0)
	_, _, errno := syscall.Syscall6(sysMountSetattr, uintptr(fd), uintptr(unsafe.Pointer(&empty)), emptyPath, uintptr(unsafe.Pointer(&attr)), 32, 0)
	if errno != 0 {
		_ = syscall.Close(fd) // a handle
		return -1, errno
	}
	return fd, nil
}

func result2(r, _ uintptr, errno syscall.Errno) (int, error) { return result(r, errno) }
