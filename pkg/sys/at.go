package sys

import (
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// Cwd is where paths begin that are not of an open directory.
const Cwd = unix.AT_FDCWD

// OpenAt opens name in the directory dir. Signals do not interrupt it.
func OpenAt(dir int, name string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// ReadlinkAt returns the target of the link name in dir; with "", of the link that
// dir itself is, opened with O_PATH.
func ReadlinkAt(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(buf[:n]), nil
}

// ReadFile is os.ReadFile for small regular files, of which a list of 300
// containers reads a thousand: of a path that begins in the directory at, into
// room, if that suffices. Package os takes five system calls more: it finds out
// whether the file can be waited for.
func ReadFile(at int, path string, room []byte) ([]byte, error) {
	fd, err := OpenAt(at, path, unix.O_RDONLY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for text := room[:0]; ; {
		text = slices.Grow(text, 4096)
		n, err := unix.Read(fd, text[len(text):cap(text)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		text = text[:len(text)+n]
		if len(text) < cap(text) { // the end: read(2)
			return text, nil
		}
	}
}
