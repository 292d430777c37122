package run

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/sys"
)

// Processes returns the pids of a running container's processes, as this
// machine counts them, sorted. It fails with Conflict unless it runs.
func (s *Service) Processes(ctx context.Context, ref string) ([]int, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !c.Running() {
		return nil, notRunning(ref)
	}
	s.tell(c, "top")
	return processes(c), nil
}

// processes are all that the container's monitor started, and their children:
// it inherits what they orphan. It needs no cgroup.
func processes(c *container.Container) []int {
	if c.State == nil {
		return nil
	}
	pids := descendants(c.State.MonitorPID, nil)
	slices.Sort(pids)
	return pids
}

func descendants(pid int, list []int) []int {
	for _, child := range sys.Children(pid) {
		if !slices.Contains(list, child) {
			list = descendants(child, append(list, child))
		}
	}
	return list
}

// Usage is what a container uses at one moment. What is not known is 0.
type Usage struct {
	At time.Time
	cgroup.Stats
	NetRx, NetTx       uint64 // bytes, since the start
	BlockRead, BlockWr uint64 // bytes, since the start
}

// Usage measures a running container. Where it has no cgroups, as for an
// ordinary user to whom none are delegated, its processes are summed up.
func (s *Service) Usage(c *container.Container) Usage {
	u := Usage{At: time.Now()}
	dirs := s.dirs(c).Remove
	if len(dirs) > 0 {
		u.Stats = cgroup.Read(dirs)
	}
	var pids []int
	if u.Pids == 0 || u.CPUNanos == 0 {
		pids = processes(c)
		sum := sumUp(pids)
		if u.CPUNanos == 0 {
			u.CPUNanos = sum.CPUNanos
		}
		if u.MemoryBytes == 0 {
			u.MemoryBytes = sum.MemoryBytes
		}
		if u.Pids == 0 {
			u.Pids = sum.Pids
		}
	}
	if c.State != nil {
		u.NetRx, u.NetTx = netBytes(c.State.PID)
	}
	if r, w, ok := cgroup.ReadIO(dirs); ok {
		u.BlockRead, u.BlockWr = r, w
	} else {
		if pids == nil {
			pids = processes(c)
		}
		for _, pid := range pids {
			r, w := blockIO(pid)
			u.BlockRead, u.BlockWr = u.BlockRead+r, u.BlockWr+w
		}
	}
	return u
}

// CPUUsage is the part of Usage that says how busy the container is, when it is
// compared with a later one.
func (s *Service) CPUUsage(c *container.Container) Usage {
	u := Usage{At: time.Now()}
	if u.CPUNanos = cgroup.ReadCPU(s.dirs(c).Remove); u.CPUNanos == 0 {
		u.CPUNanos = sumUp(processes(c)).CPUNanos
	}
	return u
}

// clockTick is USER_HZ, which is 100 on every architecture of Go's linux.
const clockTick = 100

// sumUp adds up what processes use: their time with that of children they
// waited for, and memory that is theirs alone.
func sumUp(pids []int) cgroup.Stats {
	var s cgroup.Stats
	page := uint64(os.Getpagesize())
	for _, pid := range pids {
		dir := filepath.Join("/proc", strconv.Itoa(pid))
		b, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if len(f) < 18 {
			continue
		}
		for _, i := range []int{11, 12, 13, 14} { // utime stime cutime cstime, proc_pid_stat(5)
			n, _ := strconv.ParseUint(f[i], 10, 64) // the kernel wrote it
			s.CPUNanos += n * (1e9 / clockTick)
		}
		threads, _ := strconv.ParseUint(f[17], 10, 64)
		s.Pids += threads
		if b, err = os.ReadFile(filepath.Join(dir, "statm")); err == nil {
			if f := strings.Fields(string(b)); len(f) > 2 {
				rss, _ := strconv.ParseUint(f[1], 10, 64)
				shared, _ := strconv.ParseUint(f[2], 10, 64)
				s.MemoryBytes += (rss - min(rss, shared)) * page
			}
		}
	}
	return s
}

// network returns the bytes received and sent in the process's network, without
// the loopback's.
func netBytes(pid int) (rx, tx uint64) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/net/dev")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		if !ok || strings.TrimSpace(name) == "lo" || len(f) < 9 {
			continue
		}
		r, _ := strconv.ParseUint(f[0], 10, 64) // the kernel wrote it
		t, _ := strconv.ParseUint(f[8], 10, 64)
		rx, tx = rx+r, tx+t
	}
	return rx, tx
}

// blockIO returns what a process read from and wrote to disks, if we may know.
func blockIO(pid int) (read, written uint64) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
		n, _ := strconv.ParseUint(v, 10, 64) // the kernel wrote it
		switch k {
		case "read_bytes":
			read = n
		case "write_bytes":
			written = n
		}
	}
	return read, written
}
