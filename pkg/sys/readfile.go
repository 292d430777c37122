package sys

import (
	"errors"
	"os"
	"slices"
	"syscall"
)

// ReadFile is os.ReadFile for small regular files, of which a list of 300
// containers reads a thousand: of a path that begins in the directory at, into
// room, if that suffices. Package os takes five system calls more: it finds out
// whether the file can be waited for.
func ReadFile(at int, path string, room []byte) ([]byte, error) {
	fd, err := OpenAt(at, path, syscall.O_RDONLY, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer syscall.Close(fd)
	for text := room[:0]; ; {
		text = slices.Grow(text, 4096)
		n, err := syscall.Read(fd, text[len(text):cap(text)])
		switch {
		case errors.Is(err, syscall.EINTR):
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
