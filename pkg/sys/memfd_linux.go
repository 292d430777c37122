package sys

import (
	"os"

	"golang.org/x/sys/unix"
)

// Memfd returns a file in memory that holds data and that nobody can change any
// more; memfd_create(2).
func Memfd(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		_ = f.Close() // in memory
		return nil, err
	}
	const all = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, all); err != nil {
		_ = f.Close() // in memory
		return nil, os.NewSyscallError("fcntl", err)
	}
	return f, nil
}

// WaitReadable waits until fd can be read from without blocking, or is at its
// end. It returns false if cancel becomes readable first.
func WaitReadable(fd, cancel int) (bool, error) {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}, {Fd: int32(cancel), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(p, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, os.NewSyscallError("poll", err)
		}
		return p[1].Revents == 0, nil
	}
}

// WaitHangup waits until the other end of the pipe or FIFO fd is closed.
func WaitHangup(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd)}}
	for {
		_, err := unix.Poll(p, -1)
		if err == unix.EINTR {
			continue
		}
		return os.NewSyscallError("poll", err)
	}
}
