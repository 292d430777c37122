package sys

import (
	"errors"
	"os"
	"syscall"
)

// Open returns a descriptor of the file at path, which is closed on exec. With
// package os, the same takes five system calls more: it finds out whether the file
// can be waited for.
func Open(path string, flags int) (int, error) {
	for {
		fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return fd, nil
		case !errors.Is(err, syscall.EINTR):
			return -1, &os.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// ReadFile is os.ReadFile for small regular files, of which a list of 300
// containers reads a thousand.
func ReadFile(path string) ([]byte, error) {
	fd, err := Open(path, syscall.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	var text []byte
	for buf := [4096]byte{}; ; {
		n, err := syscall.Read(fd, buf[:])
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		text = append(text, buf[:n]...)
		if n < len(buf) { // the end: read(2)
			return text, nil
		}
	}
}
