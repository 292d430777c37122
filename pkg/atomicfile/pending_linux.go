package atomicfile

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

const tmpfile = 0x400000 | syscall.O_DIRECTORY // O_TMPFILE

// link gives a file without a name the name.
func link(f *os.File, name string) error {
	const fdcwd, follow = -100, 0x400 // AT_FDCWD, AT_SYMLINK_FOLLOW
	from, err := syscall.BytePtrFromString("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return err
	}
	to, err := syscall.BytePtrFromString(name)
	if err != nil {
		return err
	}
	cwd := fdcwd
	_, _, errno := syscall.Syscall6(syscall.SYS_LINKAT, uintptr(cwd), uintptr(unsafe.Pointer(from)), uintptr(cwd), uintptr(unsafe.Pointer(to)), follow, 0)
	if errno != 0 {
		return &os.LinkError{Op: "linkat", Old: f.Name(), New: name, Err: errno}
	}
	return nil
}
