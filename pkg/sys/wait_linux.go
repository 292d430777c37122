package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// WaitExit waits until our child pid has ended, and leaves it to be reaped: until
// then its number is nobody else's.
func WaitExit(pid int) error {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if err != unix.EINTR {
			return os.NewSyscallError("waitid", err)
		}
	}
}
