package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// KillAll kills every process in dirs, and waits for none of them. A directory
// that is gone has none. It never touches a cgroup that is no container's, nor
// one that holds ourselves.
func KillAll(dirs []string) error {
	var failed []error
	for _, dir := range dirs {
		if !own(dir) {
			failed = append(failed, fmt.Errorf("%s is no container's cgroup", dir))
			continue
		}
		failed = append(failed, kill(dir))
	}
	return errors.Join(failed...)
}

func kill(dir string) error {
	pids, err := processes(dir)
	if err != nil || len(pids) == 0 {
		return err
	}
	if slices.Contains(pids, os.Getpid()) {
		return fmt.Errorf("%s holds this very process", dir)
	}
	// A process that v1 has frozen dies when it is thawed.
	defer func() { _ = write(dir, "freezer.state", "THAWED") }()
	err = write(dir, "cgroup.kill", "1") // v2, Linux 5.14: all at once
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// Where forking can be forbidden, a bomb cannot outrun the loop.
	_ = write(dir, "pids.max", "0")
	for range 100 {
		if pids, err = processes(dir); err != nil || len(pids) == 0 {
			return err
		}
		if alive := killOnce(dir, pids); alive == 0 {
			return nil
		}
	}
	return fmt.Errorf("%s: processes keep appearing", dir)
}

// killOnce signals pids through descriptors that were opened while they were in
// dir, so that a number that is used again is not hit. It returns how many it
// met that were not dying already.
func killOnce(dir string, pids []int) int {
	fds := map[int]int{}
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for _, pid := range pids {
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			fds[pid] = fd
		}
	}
	still, err := processes(dir)
	if err != nil {
		return 0
	}
	alive := 0
	for _, pid := range still {
		fd, ok := fds[pid]
		if !ok {
			alive++ // new since
			continue
		}
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
	return alive
}

// processes lists those in dir and below. 0 stands for one in a pid namespace
// that we cannot see.
func processes(dir string) ([]int, error) {
	var pids []int
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !e.IsDir():
			return nil
		}
		text, err := os.ReadFile(filepath.Join(p, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for f := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(f); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}

// Stats are what a container uses now. A figure is 0 where this host does not
// count it.
type Stats struct {
	MemoryBytes uint64 // page cache that could be dropped at once is left out, as Docker does
	MemoryLimit uint64 // 0: none
	CPUNanos    uint64 // used since the start
	Pids        uint64
	PidsLimit   uint64 // 0: none
}

// Read returns the figures of the cgroups at dirs, each from the first that has it.
func Read(dirs []string) Stats {
	s := Stats{CPUNanos: ReadCPU(dirs)}
	for _, dir := range dirs {
		if s.MemoryBytes == 0 {
			s.readMemory(dir)
		}
		if s.Pids == 0 {
			if s.Pids = readNumber(dir, "pids.current"); s.Pids > 0 {
				s.PidsLimit = readNumber(dir, "pids.max")
			}
		}
	}
	return s
}

// ReadCPU returns the processor time that was used in the cgroups at dirs.
func ReadCPU(dirs []string) (nanos uint64) {
	for _, dir := range dirs {
		if nanos = readNumber(dir, "cpuacct.usage"); nanos == 0 {
			nanos = 1000 * stat(dir, "cpu.stat", "usage_usec")
		}
		if nanos > 0 {
			break
		}
	}
	return nanos
}

func (s *Stats) readMemory(dir string) {
	if n := readNumber(dir, "memory.current"); n > 0 {
		s.MemoryBytes = less(n, stat(dir, "memory.stat", "inactive_file"))
		s.MemoryLimit = readNumber(dir, "memory.max")
		return
	}
	if n := readNumber(dir, "memory.usage_in_bytes"); n > 0 {
		s.MemoryBytes = less(n, stat(dir, "memory.stat", "total_inactive_file"))
		if limit := readNumber(dir, "memory.limit_in_bytes"); limit < 1<<62 { // v1's "none" is a huge number
			s.MemoryLimit = limit
		}
	}
}

func less(n, part uint64) uint64 {
	if part > n {
		return 0
	}
	return n - part
}

// stat returns the figure after key in a file of "key number" lines.
func stat(dir, file, key string) uint64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(strings.TrimSpace(line), " "); ok && k == key {
			n, err := strconv.ParseUint(v, 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}
