package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// TempFile returns a new file in dir that has no name: it goes with its last
// descriptor, whatever becomes of the process. On file systems without
// O_TMPFILE (Linux 3.11; open(2)) it has one for a moment.
func TempFile(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, unix.O_TMPFILE|os.O_RDWR, 0o600)
	if err == nil || !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EINVAL) {
		return f, err
	}
	if f, err = os.CreateTemp(dir, ".cais-*"); err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}
