// Package nofile remembers the limit of open files that this process was started
// with. Package syscall raises the soft limit when it is initialised and keeps
// the old value to itself, but a container is to see the one that was inherited.
//
// So this package must be initialised first. It imports nothing, and of the
// packages that are ready the language takes the one whose path sorts first.
package nofile

import "unsafe"

type rlimit struct{ cur, max uint64 }

// inherited is read here, not on demand: by then it would be too late.
var inherited = read()

// Inherited returns the soft and hard limit that this process was started with,
// and false if the kernel would not say.
func Inherited() (soft, hard uint64, ok bool) {
	return inherited.cur, inherited.max, inherited.max != 0
}

//go:linkname rawSyscall6 syscall.RawSyscall6
func rawSyscall6(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2, errno uintptr)

func read() rlimit {
	var l rlimit
	const rlimitNofile = 7
	if _, _, errno := rawSyscall6(sysPrlimit64, 0, rlimitNofile, 0, uintptr(unsafe.Pointer(&l)), 0, 0); errno != 0 {
		return rlimit{}
	}
	return l
}
