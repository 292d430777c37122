package gateway

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

func mkdirs(dirs ...string) error {
	for _, d := range dirs {
		if err := syscall.Mkdir(d, 0o700); err != nil && err != syscall.EEXIST { //nolint:errorlint // a system call's own errno
			return &os.PathError{Op: "mkdir", Path: d, Err: err}
		}
	}
	return nil
}

func open(path string, flags int) (int, error) {
	fd, err := syscall.Open(path, flags|syscall.O_CLOEXEC|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func flock(fd, how int) error {
	for {
		err := syscall.Flock(fd, how)
		if err != syscall.EINTR { //nolint:errorlint // a system call's own errno
			return err
		}
	}
}

// writeFile replaces a small file. Its readers hold the lock that its writer holds.
func writeFile(path, text string) error {
	fd, err := open(path, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(text))
	if e := syscall.Close(fd); err == nil {
		err = e
	}
	if err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }
