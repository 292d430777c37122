package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// GrowPipe has a pipe hold up to size bytes, if the kernel lets it.
func GrowPipe(f *os.File, size int) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) {
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) // it is only slower
	})
}
