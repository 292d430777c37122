package sys

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// OpenDirAt opens the directory name in dir for reading; no link to one.
func OpenDirAt(dir int, name string) (int, error) {
	return OpenAt(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
}

// CreateAt makes the file name in dir and opens it for writing. It fails if there
// is one, or a link.
func CreateAt(dir int, name string, perm uint32) (int, error) {
	return OpenAt(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, perm)
}

// OpenBelow opens a path of several names as resolve (RESOLVE_BENEATH or
// RESOLVE_IN_ROOT, and more) allows; "" is root itself.
func OpenBelow(root int, path string, flags int, resolve uint64) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	for {
		fd, err := unix.Openat2(root, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: a rename on the system while ".." was resolved
			return fd, err
		}
	}
}

// RemoveAt removes name in dir and all below it, without following a link.
func RemoveAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err != unix.EISDIR {
		return err
	}
	if unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) == nil {
		return nil
	}
	fd, err := OpenDirAt(dir, name)
	if err != nil {
		return err
	}
	d := os.NewFile(uintptr(fd), name)
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := RemoveAt(fd, n); err != nil {
			return err
		}
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// FDPath is a path of what fd has open, for system calls that refuse O_PATH.
func FDPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// SetTimesAt sets both times of name in dir, of a link its own; with "", of what
// dir itself is (Linux 5.8).
func SetTimesAt(dir int, name string, t unix.Timespec) error {
	return unix.UtimesNanoAt(dir, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH)
}
