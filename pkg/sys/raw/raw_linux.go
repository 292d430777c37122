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

// PidfdOpen returns a handle of process pid.
func PidfdOpen(pid int) (int, error) {
	r, _, errno := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), 0, 0)
	return result(r, errno)
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

// Signals is a set of signals as the kernel has it: bit n-1 is signal n.
type Signals uint64

// Of returns the set of sigs.
func Of(sigs ...syscall.Signal) Signals {
	var s Signals
	for _, sig := range sigs {
		s |= 1 << (sig - 1)
	}
	return s
}

// What Mask does with a set: rt_sigprocmask(2).
const (
	Block   = 0
	SetMask = 2
)

// Mask changes the signals that the calling thread blocks and returns those it
// did. The Go runtime gives the mask that a program starts with to all threads.
func Mask(how int, set Signals) (old Signals, err error) {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, uintptr(how),
		uintptr(unsafe.Pointer(&set)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return old, nil
}

// Ignore makes this process ignore sig, behind the Go runtime's back.
func Ignore(sig syscall.Signal) {
	action := [4]uint64{1} // struct sigaction with SIG_IGN; flags, restorer and mask zero
	// Only KILL and STOP refuse.
	syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
}

// Signalfd returns a descriptor that the signals of set are read from, 128 bytes
// each, the first four of which are the number. All threads must block them.
func Signalfd(set Signals) (int, error) {
	r, _, errno := syscall.RawSyscall6(syscall.SYS_SIGNALFD4, ^uintptr(0), uintptr(unsafe.Pointer(&set)), 8,
		syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0, 0)
	return result(r, errno)
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
