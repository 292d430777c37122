package sys

import (
	"bytes"
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// SignalProcess sends sig to the process pid if it is the one that was started
// at start (field 22 of /proc/PID/stat), and fails with ESRCH if it is not: a
// recycled pid is never signalled. The pidfd holds on to the process between the
// look and the signal.
func SignalProcess(pid int, start uint64, sig syscall.Signal) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	got, err := ProcessStart(pid)
	if err != nil {
		return err
	}
	if got != start {
		return syscall.ESRCH
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return os.NewSyscallError("pidfd_send_signal", err)
	}
	return nil
}

// ProcessStart returns when pid was started, in clock ticks since boot: field 22
// of /proc/PID/stat. It fails with ESRCH if there is no such process.
func ProcessStart(pid int) (uint64, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return 0, syscall.ESRCH
		}
		return 0, err
	}
	// The second field is the program's name in parentheses and may hold anything.
	i := bytes.LastIndexByte(b, ')')
	fields := bytes.Fields(b[i+1:])
	const field = 22 - 3 // the first one behind the name is field 3
	if len(fields) <= field {
		return 0, errors.New("/proc/PID/stat is cut off")
	}
	return strconv.ParseUint(string(fields[field]), 10, 64)
}

// Children returns the children of process pid, as far as the kernel tells
// (CONFIG_PROC_CHILDREN).
func Children(pid int) []int {
	dir := "/proc/" + strconv.Itoa(pid) + "/task/"
	tasks, _ := os.ReadDir(dir) // a process that has ended has none
	var all []int
	for _, t := range tasks {
		b, err := os.ReadFile(dir + t.Name() + "/children")
		if err != nil {
			continue // a thread that has ended
		}
		for f := range bytes.FieldsSeq(b) {
			if n, err := strconv.Atoi(string(f)); err == nil {
				all = append(all, n)
			}
		}
	}
	return all
}

// OpenProcess returns a pidfd of process pid if it is the one that was started at
// start, and fails with ESRCH if it is not.
func OpenProcess(pid int, start uint64) (*os.File, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, os.NewSyscallError("pidfd_open", err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	got, err := ProcessStart(pid)
	if err == nil && got != start {
		err = syscall.ESRCH
	}
	if err != nil {
		_ = f.Close() // a handle
		return nil, err
	}
	return f, nil
}
