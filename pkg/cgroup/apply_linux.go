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

	"cais.dev/cais/pkg/run/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// applier writes limits into the directories of one container and collects what
// did not work.
type applier struct {
	res         *specs.LinuxResources
	warnings    []plan.Warning
	failed      []error // what warnings say, as errors
	devicesDone bool
	devicesErr  error
}

// apply writes what hierarchy hy can limit into dir.
func (a *applier) apply(hy *hierarchy, dir string) {
	if hy.version == 2 {
		a.v2(dir, hy.controllers)
		if hy.unified && len(a.res.Devices) > 0 {
			a.devicesErr = attachDevices(dir, a.res.Devices)
			a.devicesDone = a.devicesErr == nil
		}
		return
	}
	for _, c := range hy.controllers {
		switch c {
		case "memory":
			a.memory1(dir)
		case "cpu":
			a.cpu1(dir)
		case "cpuset":
			a.cpuset(dir)
		case "pids":
			a.pids(dir)
		case "blkio":
			a.blkio1(dir)
		case "devices":
			if len(a.res.Devices) > 0 {
				a.devicesErr = devices1(dir, a.res.Devices)
				a.devicesDone = a.devicesErr == nil
			}
		}
	}
}

// set writes one limit; failing is a warning.
func (a *applier) set(flag, dir, file, value string) {
	a.note(flag, write(dir, file, value))
}

func (a *applier) note(flag string, err error) {
	if err == nil {
		return
	}
	a.failed = append(a.failed, err)
	why := errors.Unwrap(err)
	if pe, ok := errors.AsType[*fs.PathError](err); ok {
		why = pe.Err
	}
	if why == nil {
		why = err
	}
	a.warnings = append(a.warnings, plan.Warning{Flag: flag, Text: fmt.Sprintf("the kernel did not take --%s (%v); it is ignored", flag, why)})
}

func (a *applier) memory1(dir string) {
	m := a.res.Memory
	if m == nil {
		return
	}
	limit := func() {
		if m.Limit != nil {
			a.set("memory", dir, "memory.limit_in_bytes", number(*m.Limit))
		}
	}
	swap := func() {
		if m.Swap != nil {
			a.set("memory-swap", dir, "memory.memsw.limit_in_bytes", number(*m.Swap))
		}
	}
	// The kernel keeps memory+swap ≥ memory at every moment: what grows goes
	// first at the top, what shrinks at the bottom.
	if m.Swap != nil && m.Limit != nil && (*m.Swap < 0 || readNumber(dir, "memory.memsw.limit_in_bytes") < uint64(*m.Limit)) {
		swap()
		limit()
	} else {
		limit()
		swap()
	}
	if m.Reservation != nil {
		a.set("memory-reservation", dir, "memory.soft_limit_in_bytes", number(*m.Reservation))
	}
	if m.Swappiness != nil {
		a.set("memory-swappiness", dir, "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		a.set("oom-kill-disable", dir, "memory.oom_control", "1")
	}
}

func (a *applier) cpu1(dir string) {
	c := a.res.CPU
	if c == nil {
		return
	}
	if c.Shares != nil {
		a.set("cpu-shares", dir, "cpu.shares", strconv.FormatUint(*c.Shares, 10))
	}
	if c.Period != nil {
		a.set("cpu-period", dir, "cpu.cfs_period_us", strconv.FormatUint(*c.Period, 10))
	}
	if c.Quota != nil {
		a.set(quotaFlag(c), dir, "cpu.cfs_quota_us", number(*c.Quota))
	}
	if c.RealtimePeriod != nil {
		a.set("cpu-rt-period", dir, "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10))
	}
	if c.RealtimeRuntime != nil {
		a.set("cpu-rt-runtime", dir, "cpu.rt_runtime_us", number(*c.RealtimeRuntime))
	}
}

// quotaFlag guesses which of its two flags made the quota.
func quotaFlag(c *specs.LinuxCPU) string {
	if c.Period != nil && *c.Period == 100_000 {
		return "cpus"
	}
	return "cpu-quota"
}

func (a *applier) cpuset(dir string) {
	c := a.res.CPU
	if c == nil {
		return
	}
	if c.Cpus != "" {
		a.set("cpuset-cpus", dir, "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		a.set("cpuset-mems", dir, "cpuset.mems", c.Mems)
	}
}

func (a *applier) pids(dir string) {
	if p := a.res.Pids; p != nil && p.Limit != nil {
		a.set("pids-limit", dir, "pids.max", limitOrMax(*p.Limit))
	}
}

func (a *applier) blkio1(dir string) {
	b := a.res.BlockIO
	if b == nil {
		return
	}
	file := "blkio.weight" // CFQ's, before Linux 5.0
	if !exists(filepath.Join(dir, file)) {
		file = "blkio.bfq.weight"
	}
	if b.Weight != nil {
		a.set("blkio-weight", dir, file, strconv.Itoa(int(*b.Weight)))
	}
	for _, w := range b.WeightDevice {
		if w.Weight != nil {
			a.set("blkio-weight-device", dir, file+"_device", fmt.Sprintf("%d:%d %d", w.Major, w.Minor, *w.Weight))
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			a.set(t.flag, dir, t.v1, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
}

// throttle is one of the four rate limits under its three names.
type throttle struct {
	flag, v1, v2 string
	devices      []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"device-read-bps", "blkio.throttle.read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"device-write-bps", "blkio.throttle.write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"device-read-iops", "blkio.throttle.read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"device-write-iops", "blkio.throttle.write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

// v2 writes the unified hierarchy's files, of those controllers that it has: on
// a hybrid host others are in v1. A file that is missing all the same means
// that its controller could not be switched on.
func (a *applier) v2(dir string, controllers []string) {
	has := func(c string) bool { return slices.Contains(controllers, c) }
	if m := a.res.Memory; m != nil && has("memory") {
		if m.Limit != nil {
			a.set("memory", dir, "memory.max", limitOrMax(*m.Limit))
		}
		if m.Swap != nil && m.Limit != nil {
			swap := *m.Swap
			if swap >= 0 {
				swap -= *m.Limit // v2 counts swap alone
			}
			a.set("memory-swap", dir, "memory.swap.max", swapMax(swap))
		}
		if m.Reservation != nil {
			a.set("memory-reservation", dir, "memory.low", limitOrMax(*m.Reservation))
		}
	}
	if c := a.res.CPU; c != nil && has("cpu") {
		if c.Shares != nil {
			a.set("cpu-shares", dir, "cpu.weight", strconv.FormatUint(Weight(*c.Shares), 10))
		}
		if c.Quota != nil || c.Period != nil {
			quota, period := "max", "100000"
			if c.Quota != nil {
				quota = limitOrMax(*c.Quota)
			}
			if c.Period != nil {
				period = strconv.FormatUint(*c.Period, 10)
			}
			a.set(quotaFlag(c), dir, "cpu.max", quota+" "+period)
		}
	}
	if has("cpuset") {
		a.cpuset(dir)
	}
	if has("pids") {
		a.pids(dir)
	}
	if a.res.BlockIO != nil && has("io") {
		a.io2(dir, a.res.BlockIO)
	}
}

func (a *applier) io2(dir string, b *specs.LinuxBlockIO) {
	if b.Weight != nil {
		if file := "io.bfq.weight"; exists(filepath.Join(dir, file)) {
			a.set("blkio-weight", dir, file, strconv.Itoa(int(*b.Weight)))
		} else { // 10–1000 becomes 1–10000
			a.set("blkio-weight", dir, "io.weight", fmt.Sprintf("default %d", 1+(int(*b.Weight)-10)*9999/990))
		}
	}
	for _, w := range b.WeightDevice {
		if w.Weight != nil {
			a.set("blkio-weight-device", dir, "io.bfq.weight", fmt.Sprintf("%d:%d %d", w.Major, w.Minor, *w.Weight))
		}
	}
	for _, t := range throttles(b) {
		for _, d := range t.devices {
			a.set(t.flag, dir, "io.max", fmt.Sprintf("%d:%d %s=%d", d.Major, d.Minor, t.v2, d.Rate))
		}
	}
}

// Weight is cpu.weight (1–10000) for cpu.shares (2–262144), on the straight
// line between the ends that the OCI runtimes used first. Docker's default of
// 1024 becomes 39.
func Weight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func limitOrMax(n int64) string {
	if n <= 0 {
		return "max"
	}
	return number(n)
}

func swapMax(n int64) string {
	if n < 0 {
		return "max"
	}
	return number(n)
}

func readNumber(dir, file string) uint64 {
	text, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// devices1 writes v1's lists. Where everything is allowed there is nothing to
// write: a child has what its parent has.
func devices1(dir string, rules []specs.LinuxDeviceCgroup) error {
	for _, r := range rules {
		file := "devices.deny"
		if r.Allow {
			file = "devices.allow"
		}
		kind, line := r.Type, "a"
		if kind == "" {
			kind = "a"
		}
		if kind != "a" || r.Major != nil || r.Minor != nil {
			line = fmt.Sprintf("%s %s:%s %s", kind, anyNumber(r.Major), anyNumber(r.Minor), r.Access)
		}
		if r.Allow && line == "a" {
			if text, err := os.ReadFile(filepath.Join(dir, "devices.list")); err == nil && slices.Contains(strings.Fields(string(text)), "a") {
				continue
			}
		}
		if err := write(dir, file, line); err != nil {
			return fmt.Errorf("%s %q: %w", file, line, err)
		}
	}
	return nil
}

func anyNumber(n *int64) string {
	if n == nil || *n < 0 {
		return "*"
	}
	return number(*n)
}
