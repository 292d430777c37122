package userns

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// find opens the namespace of a live process in the register dir that uid owns;
// nil if there is none. It removes the entries of processes that are gone.
func find(dir string, uid int) (*os.File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		text, began, ok := strings.Cut(e.Name(), "-")
		pid, err := strconv.Atoi(text)
		if !ok || err != nil || pid <= 0 {
			continue // the lock, or nothing of ours
		}
		ns, err := open(pid, began, uid)
		if err == nil {
			return ns, nil
		}
		if errors.Is(err, errStale) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // left-over of a process that was killed
		}
	}
	return nil, nil
}

var errStale = errors.New("not a process in U")

// open opens the namespace of process pid if it began then and lives in a user
// namespace of uid's. Only a process that is certainly not the one that was
// entered is stale; one we may not look at is left alone.
func open(pid int, began string, uid int) (*os.File, error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil, errStale
	}
	if err != nil {
		return nil, err
	}
	// The start time is read after the namespace was opened: if it is the same
	// now, the namespace was that process's.
	now, err := startTime(pid)
	switch {
	case err != nil || now != began:
		err = errStale
	default:
		err = ownedBy(f, uid)
	}
	if err != nil {
		_ = f.Close() // a handle
		return nil, err
	}
	return f, nil
}

func ownedBy(ns *os.File, uid int) error {
	owner, err := unix.IoctlGetUint32(int(ns.Fd()), unix.NS_GET_OWNER_UID)
	if err != nil || int(owner) != uid {
		return errStale
	}
	return nil
}

// startTime returns when process pid began, in clock ticks since boot: with the
// pid it names a process for good, until the next boot (and the register is
// on a tmpfs).
func startTime(pid int) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return "", err
	}
	text := string(b)
	// The second field is the command in parentheses, and may hold any of both.
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" || fields[0] == "X" {
		return "", errStale // a zombie has no namespaces any more
	}
	return fields[19], nil
}
