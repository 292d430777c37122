package sys

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenPath opens what name is in dir without following a symbolic link and
// without any effect on the file itself (O_PATH): safe on names that an image
// chose. name must be a single component.
func OpenPath(dir *os.File, name string) (*os.File, error) {
	return OpenAt(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
}

// OpenAt opens name relative to dir with flags, closed on exec.
func OpenAt(dir *os.File, name string, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(dir.Fd()), name, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		path := filepath.Join(dir.Name(), name)
		if err != nil {
			return nil, &os.PathError{Op: "openat", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}

// ReadLink returns the target of the symbolic link that f, opened by
// [OpenPath], is.
func ReadLink(f *os.File) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", buf)
	if err != nil {
		return "", &os.PathError{Op: "readlinkat", Path: f.Name(), Err: err}
	}
	return string(buf[:n]), nil
}

// Xattr returns the extended attribute name of f, which may be opened with
// O_PATH; nil if it has none, or none that we may see.
func Xattr(f *os.File, name string) []byte {
	// fgetxattr refuses O_PATH; through /proc the kernel opens the same inode.
	path := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	buf := make([]byte, 256)
	for {
		n, err := unix.Getxattr(path, name, buf)
		if errors.Is(err, unix.ERANGE) && len(buf) < 1<<16 {
			buf = make([]byte, 1<<16)
			continue
		}
		if err != nil {
			return nil
		}
		return buf[:n]
	}
}

// Xattrs returns the names of f's extended attributes.
func Xattrs(f *os.File) ([]string, error) {
	path := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	buf := make([]byte, 1<<16) // the kernel's own limit: XATTR_LIST_MAX
	n, err := unix.Listxattr(path, buf)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return nil, nil
		}
		return nil, &os.PathError{Op: "listxattr", Path: f.Name(), Err: err}
	}
	var names []string
	for start, i := 0, 0; i < n; i++ {
		if buf[i] == 0 {
			names = append(names, string(buf[start:i]))
			start = i + 1
		}
	}
	return names, nil
}
