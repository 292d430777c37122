// Package probe reads this machine once into a [plan.Host]: a handful of system
// calls, no subprocess, and nothing that a command does not ask for.
package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// Options say what the caller already knows.
type Options struct {
	Rootless   bool // an ordinary user's command; also inside U
	SingleID   bool
	UIDs, GIDs []plan.IDMap // U's map; empty as root
}

// Host reads the facts that planning needs, but for Cgroup: whoever makes
// cgroups knows that already.
func Host(o Options) (plan.Host, error) {
	h := plan.Host{
		Rootless: o.Rootless, SingleID: o.SingleID, UIDs: o.UIDs, GIDs: o.GIDs,
		UID: os.Getuid(), GID: os.Getgid(),
		Arch:     runtime.GOARCH,
		CPUs:     cpus(read("/sys/devices/system/cpu/online")),
		AppArmor: strings.HasPrefix(read("/sys/module/apparmor/parameters/enabled"), "Y") && !o.Rootless,
		SELinux:  exists("/sys/fs/selinux/enforce"),
		Seccomp:  hasSeccomp(),
		Mqueue:   exists("/dev/mqueue"),
		Throttle: throttle("/sys/devices/system/cpu"),
		Rlimits:  rlimits(),
	}
	uidMap := strings.Join(strings.Fields(read("/proc/self/uid_map")), " ")
	nested := uidMap != "" && uidMap != "0 0 4294967295"
	h.InUserNS = o.Rootless || nested
	if nested && !o.Rootless && len(h.UIDs) == 0 {
		// Root of somebody else's user namespace: containers live in it, so its
		// ids are those that exist.
		h.UIDs, h.GIDs = ids(read("/proc/self/uid_map")), ids(read("/proc/self/gid_map"))
		h.SingleID = len(h.UIDs) == 1 && h.UIDs[0].Size == 1
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return h, errs.E("read our own capabilities", errs.Internal, err)
	}
	h.Caps = capField(string(status), "CapBnd:") & capField(string(status), "CapPrm:")
	h.RaiseLimits = !h.InUserNS && h.Caps&(1<<capSysResource) != 0
	if o.Rootless {
		h.Caps = allCaps(read("/proc/sys/kernel/cap_last_cap")) // a new user namespace begins with all of them
	}
	if h.OOMScore, err = strconv.Atoi(strings.TrimSpace(read("/proc/self/oom_score_adj"))); err != nil {
		h.OOMScore = 0 // no such file: nothing to go below
	}
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		return h, errs.E("ask for the kernel's version", errs.Internal, err)
	}
	h.Kernel, err = kernel(text(u.Release[:]))
	return h, err
}

const capSysResource = 24

// read returns a small file's text, "" if there is none.
func read(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func text[T int8 | uint8](field []T) string {
	var b strings.Builder
	for _, c := range field {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}

// kernel reads "6.12.3-amd64".
func kernel(release string) (plan.Kernel, error) {
	var k plan.Kernel
	if _, err := fmt.Sscanf(release, "%d.%d", &k.Major, &k.Minor); err != nil {
		return k, errs.E("read the kernel's version "+release, errs.Internal, err)
	}
	return k, nil
}

// cpus returns how many processors there are, from the kernel's list of those
// online: one more than the highest.
func cpus(online string) int {
	online = strings.TrimSpace(online)
	last := online[strings.LastIndexAny(online, ",-")+1:]
	n, err := strconv.Atoi(last)
	if err != nil {
		return runtime.NumCPU()
	}
	return n + 1
}

func capField(status, key string) uint64 {
	_, rest, _ := strings.Cut(status, key)
	line, _, _ := strings.Cut(rest, "\n")
	mask, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return 0
	}
	return mask
}

func allCaps(last string) uint64 {
	n, err := strconv.Atoi(strings.TrimSpace(last))
	if err != nil || n < 0 || n > 62 {
		n = 40 // CAP_CHECKPOINT_RESTORE, Linux 5.9
	}
	return 1<<(n+1) - 1
}

func ids(text string) []plan.IDMap {
	var list []plan.IDMap
	for line := range strings.Lines(text) {
		var inside, outside, size uint32
		if _, err := fmt.Sscan(line, &inside, &outside, &size); err == nil {
			list = append(list, plan.IDMap{Container: inside, Host: outside, Size: size})
		}
	}
	return list
}

// rlimits returns our own limits by Docker's names; linux/resource.h.
func rlimits() map[string]plan.Rlimit {
	m := make(map[string]plan.Rlimit, 15)
	for _, l := range []struct {
		name   string
		number int
	}{
		{"cpu", 0}, {"fsize", 1}, {"data", 2}, {"stack", 3}, {"core", 4}, {"rss", 5}, {"nproc", 6}, {"nofile", 7}, {"memlock", 8},
		{"locks", 10}, {"sigpending", 11}, {"msgqueue", 12}, {"nice", 13}, {"rtprio", 14}, {"rttime", 15},
	} {
		var r syscall.Rlimit
		if err := syscall.Getrlimit(l.number, &r); err == nil {
			m[l.name] = plan.Rlimit{Soft: limit(r.Cur), Hard: limit(r.Max)}
		}
	}
	return m
}

func limit(n uint64) int64 {
	if n > 1<<62 {
		return -1
	}
	return int64(n)
}

// hasSeccomp asks for the mode, which a kernel without seccomp does not know.
func hasSeccomp() bool {
	const prGetSeccomp = 21
	_, _, errno := syscall.RawSyscall(syscall.SYS_PRCTL, prGetSeccomp, 0, 0)
	return errno != syscall.EINVAL
}

// throttle lists the thermal_throttle directories of the processors, which tell
// one container how hard another works.
func throttle(dir string) []string {
	if !exists(filepath.Join(dir, "cpu0", "thermal_throttle")) {
		return nil // most virtual machines
	}
	list, err := filepath.Glob(filepath.Join(dir, "cpu[0-9]*", "thermal_throttle"))
	if err != nil {
		return nil
	}
	return list
}
