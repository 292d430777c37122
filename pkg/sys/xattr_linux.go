package sys

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Xattrs returns the extended attributes that keep wants of the file that is open
// as fd, maybe with O_PATH; nil if there are none. One that may not be read is an
// error beside the others.
func Xattrs(fd int, keep func(name string) bool) (map[string][]byte, error) {
	m, err := xattrs(keep,
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) })
	if !errors.Is(err, unix.EBADF) {
		return m, err
	}
	path := FDPath(fd) // by it the kernel opens what O_PATH did not
	return xattrs(keep,
		func(b []byte) (int, error) { return unix.Listxattr(path, b) },
		func(name string, b []byte) (int, error) { return unix.Getxattr(path, name, b) })
}

// XattrsAt is [Xattrs] of what name is in the directory dir, without following it.
func XattrsAt(dir int, name string, keep func(name string) bool) (map[string][]byte, error) {
	path := FDPath(dir) + "/" + name
	return xattrs(keep,
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(name string, b []byte) (int, error) { return unix.Lgetxattr(path, name, b) })
}

func xattrs(keep func(string) bool, list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string][]byte, error) {
	var small [1024]byte // as most files have none
	names, err := sized(small[:], list)
	if err == unix.ENOTSUP || err == nil && len(names) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("listxattr", err)
	}
	var m map[string][]byte
	var failed []error
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !keep(name) {
			continue
		}
		value, err := sized(make([]byte, 256), func(b []byte) (int, error) { return get(name, b) })
		switch {
		case err == nil:
			if m == nil {
				m = map[string][]byte{}
			}
			m[name] = value
		case err != unix.ENODATA: // it has gone meanwhile
			failed = append(failed, os.NewSyscallError("getxattr "+name, err))
		}
	}
	return m, errors.Join(failed...)
}

// sized is what read puts into buf or, where that is too small, into one of the
// kernel's own limit for attributes (XATTR_SIZE_MAX).
func sized(buf []byte, read func([]byte) (int, error)) ([]byte, error) {
	n, err := read(buf)
	if err == unix.ERANGE {
		buf = make([]byte, 1<<16)
		n, err = read(buf)
	}
	return buf[:max(n, 0)], err
}
