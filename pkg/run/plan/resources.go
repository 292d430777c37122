package plan

import (
	"fmt"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// minMemory is the least that Docker takes as a memory limit: less, and the
// container's own start fails.
const minMemory = 6 << 20

// cpuPeriod is the kernel's default period, in µs, on which --cpus is based.
const cpuPeriod = 100_000

// resources decides the limits. One whose controller is missing here is left
// out with a warning.
func (b *builder) resources() error {
	r := b.req.Resources
	if b.req.Cgroups != "disabled" {
		b.spec.Linux.CgroupsPath = b.in.CgroupPath
	}
	if n := int64(b.host.CPUs) * 1e9; b.host.CPUs > 0 && r.NanoCPUs > n {
		return errs.New(errs.Invalid, fmt.Sprintf("range of CPUs is from 0.01 to %d.00, as there are only %d CPUs available", b.host.CPUs, b.host.CPUs))
	}
	if err := b.cpusAvailable(r.CpusetCpus); err != nil {
		return err
	}
	s := &specs.LinuxResources{}
	for _, part := range []func(*specs.LinuxResources) error{b.memory, b.cpu, b.cpuset, b.pids, b.blkio} {
		if err := part(s); err != nil {
			return err
		}
	}
	if s.Memory != nil || s.CPU != nil || s.Pids != nil || s.BlockIO != nil {
		b.spec.Linux.Resources = s
	}
	return nil
}

// Limits are the limits of req alone, as Spec decides them; nil if there are
// none.
func Limits(req Request, host Host, in Inputs) (*specs.LinuxResources, []Warning, error) {
	b := builder{req: req, host: host, in: in, spec: &specs.Spec{Linux: &specs.Linux{}}}
	err := b.resources()
	return b.spec.Linux.Resources, b.warnings, err
}

// has says whether controller can limit, and with version only (0: any) that
// version of its interface. If not, flag becomes a warning.
func (b *builder) has(controller, flag string, version int) (bool, error) {
	c, ok := b.host.Cgroup.Controllers[controller]
	switch {
	case b.req.Cgroups == "disabled":
		return false, b.short(flag, fmt.Sprintf("--cgroups disabled: --%s ignored", flag))
	case !ok && b.host.Rootless:
		return false, b.short(flag, fmt.Sprintf("your session does not delegate %s; --%s ignored", controller, flag))
	case !ok:
		return false, b.short(flag, fmt.Sprintf("this machine gives no %s controller to use; --%s ignored", controller, flag))
	case version != 0 && c.Version != version:
		return false, b.short(flag, fmt.Sprintf("cgroup v%d has no such limit; --%s ignored", c.Version, flag))
	}
	return true, nil
}

// limit applies one limit, if it is asked for and can be had.
type limit struct {
	asked   bool
	flag    string
	version int
	set     func()
}

func (b *builder) apply(controller string, limits []limit) error {
	for _, l := range limits {
		if !l.asked {
			continue
		}
		ok, err := b.has(controller, l.flag, l.version)
		if err != nil {
			return err
		}
		if ok {
			l.set()
		}
	}
	return nil
}

func (b *builder) memory(s *specs.LinuxResources) error {
	r := b.req.Resources
	mem := func() *specs.LinuxMemory {
		if s.Memory == nil {
			s.Memory = &specs.LinuxMemory{}
		}
		return s.Memory
	}
	err := b.apply("memory", []limit{
		{r.Memory > 0, "memory", 0, func() {
			mem().Limit = &r.Memory
			if b.host.Cgroup.Swap && r.MemorySwap == 0 {
				swap := 2 * r.Memory // Docker's default
				mem().Swap = &swap
			}
		}},
		{r.MemoryReservation > 0, "memory-reservation", 0, func() { mem().Reservation = &r.MemoryReservation }},
		{r.MemorySwappiness != nil && *r.MemorySwappiness >= 0, "memory-swappiness", 1, func() {
			n := uint64(*r.MemorySwappiness)
			mem().Swappiness = &n
		}},
		{b.req.OOMKillDisable != nil && *b.req.OOMKillDisable, "oom-kill-disable", 1, func() { mem().DisableOOMKiller = b.req.OOMKillDisable }},
	})
	if err != nil || r.MemorySwap == 0 {
		return err
	}
	ok, err := b.has("memory", "memory-swap", 0)
	switch {
	case err != nil || !ok:
		return err
	case !b.host.Cgroup.Swap && r.MemorySwap != r.Memory:
		return b.short("memory-swap", "this machine does not account swap; --memory-swap ignored")
	case b.host.Cgroup.Swap:
		mem().Swap = &r.MemorySwap
	}
	return nil
}

func (b *builder) cpu(s *specs.LinuxResources) error {
	r := b.req.Resources
	cpu := cpuOf(s)
	return b.apply("cpu", []limit{
		{r.NanoCPUs > 0, "cpus", 0, func() {
			period, quota := uint64(cpuPeriod), r.NanoCPUs*cpuPeriod/1e9
			cpu().Period, cpu().Quota = &period, &quota
		}},
		{r.CPUShares > 0, "cpu-shares", 0, func() {
			n := uint64(r.CPUShares)
			cpu().Shares = &n
		}},
		{r.CPUPeriod > 0, "cpu-period", 0, func() {
			n := uint64(r.CPUPeriod)
			cpu().Period = &n
		}},
		{r.CPUQuota != 0, "cpu-quota", 0, func() { cpu().Quota = &r.CPUQuota }},
		{r.CPURTPeriod > 0, "cpu-rt-period", 1, func() {
			n := uint64(r.CPURTPeriod)
			cpu().RealtimePeriod = &n
		}},
		{r.CPURTRuntime != 0, "cpu-rt-runtime", 1, func() { cpu().RealtimeRuntime = &r.CPURTRuntime }},
	})
}

func (b *builder) cpuset(s *specs.LinuxResources) error {
	r := b.req.Resources
	cpu := cpuOf(s)
	return b.apply("cpuset", []limit{
		{r.CpusetCpus != "", "cpuset-cpus", 0, func() { cpu().Cpus = r.CpusetCpus }},
		{r.CpusetMems != "", "cpuset-mems", 0, func() { cpu().Mems = r.CpusetMems }},
	})
}

func cpuOf(s *specs.LinuxResources) func() *specs.LinuxCPU {
	return func() *specs.LinuxCPU {
		if s.CPU == nil {
			s.CPU = &specs.LinuxCPU{}
		}
		return s.CPU
	}
}

func (b *builder) pids(s *specs.LinuxResources) error {
	n := b.req.Resources.PidsLimit
	return b.apply("pids", []limit{
		{n != nil && *n > 0, "pids-limit", 0, func() {
			limit := *n
			s.Pids = &specs.LinuxPids{Limit: &limit}
		}},
	})
}

func (b *builder) blkio(s *specs.LinuxResources) error {
	r := b.req.Resources
	var err error
	io := func() *specs.LinuxBlockIO {
		if s.BlockIO == nil {
			s.BlockIO = &specs.LinuxBlockIO{}
		}
		return s.BlockIO
	}
	rates := func(list []Rate) []specs.LinuxThrottleDevice {
		var out []specs.LinuxThrottleDevice
		for _, x := range list {
			var d specs.LinuxThrottleDevice
			if d.Major, d.Minor, err = b.blockDevice(x.Path, err); err != nil {
				return nil
			}
			d.Rate = x.Rate
			out = append(out, d)
		}
		return out
	}
	applyErr := b.apply("blkio", []limit{
		{r.BlkioWeight > 0, "blkio-weight", 0, func() { io().Weight = &r.BlkioWeight }},
		{len(r.BlkioWeightDevice) > 0, "blkio-weight-device", 0, func() {
			for _, x := range r.BlkioWeightDevice {
				var d specs.LinuxWeightDevice
				if d.Major, d.Minor, err = b.blockDevice(x.Path, err); err != nil {
					return
				}
				d.Weight = &x.Weight
				io().WeightDevice = append(io().WeightDevice, d)
			}
		}},
		{len(r.ReadBPS) > 0, "device-read-bps", 0, func() { io().ThrottleReadBpsDevice = rates(r.ReadBPS) }},
		{len(r.WriteBPS) > 0, "device-write-bps", 0, func() { io().ThrottleWriteBpsDevice = rates(r.WriteBPS) }},
		{len(r.ReadIOPS) > 0, "device-read-iops", 0, func() { io().ThrottleReadIOPSDevice = rates(r.ReadIOPS) }},
		{len(r.WriteIOPS) > 0, "device-write-iops", 0, func() { io().ThrottleWriteIOPSDevice = rates(r.WriteIOPS) }},
	})
	if err != nil {
		return err
	}
	return applyErr
}

func (b *builder) blockDevice(path string, err error) (major, minor int64, _ error) {
	if err != nil {
		return 0, 0, err
	}
	d, ok := b.in.BlockDevices[path]
	if !ok {
		return 0, 0, errs.New(errs.Invalid, path+": no such device")
	}
	return d.Major, d.Minor, nil
}

// cpusAvailable refuses a processor that this machine does not have.
func (b *builder) cpusAvailable(list string) error {
	cpus, err := parseList(list)
	if err != nil || b.host.CPUs == 0 {
		return err
	}
	for _, n := range cpus {
		if n[1] >= b.host.CPUs {
			return errs.New(errs.Invalid, fmt.Sprintf("requested CPUs are not available - requested %s, available: 0-%d", list, b.host.CPUs-1))
		}
	}
	return nil
}

// parseList reads the kernel's list format, "0-2,7", as ranges.
func parseList(list string) ([][2]int, error) {
	if list == "" {
		return nil, nil
	}
	var out [][2]int
	for part := range strings.SplitSeq(list, ",") {
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		a, err1 := strconv.ParseUint(lo, 10, 16)
		z, err2 := strconv.ParseUint(hi, 10, 16)
		if err1 != nil || err2 != nil || a > z {
			return nil, errs.New(errs.Invalid, "invalid cpuset list: "+list)
		}
		out = append(out, [2]int{int(a), int(z)})
	}
	return out, nil
}

// CheckResources holds Docker's rules between limits, whatever the host, in its
// words: scripts look for them.
func CheckResources(r Resources) error {
	bad := func(format string, a ...any) error { return errs.New(errs.Invalid, fmt.Sprintf(format, a...)) }
	switch {
	case r.Memory < 0 || r.Memory > 0 && r.Memory < minMemory:
		return bad("Minimum memory limit allowed is 6MB")
	case r.MemoryReservation < 0 || r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return bad("Minimum memory reservation allowed is 6MB")
	case r.Memory > 0 && r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return bad("Minimum memoryswap limit should be larger than memory limit, see usage")
	case r.Memory == 0 && r.MemorySwap > 0:
		return bad("You should always set the Memory limit when using Memoryswap limit, see usage")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return bad("Minimum memory limit can not be less than memory reservation limit, see usage")
	case r.MemorySwap < -1:
		return bad("invalid --memory-swap: %d", r.MemorySwap)
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return bad("invalid value: %d. Valid memory swappiness range is 0-100", *r.MemorySwappiness)
	case r.NanoCPUs > 0 && r.CPUPeriod > 0:
		return bad("conflicting options: --cpus and --cpu-period cannot both be set")
	case r.NanoCPUs > 0 && r.CPUQuota > 0:
		return bad("conflicting options: --cpus and --cpu-quota cannot both be set")
	case r.NanoCPUs < 0 || r.NanoCPUs > 0 && r.NanoCPUs < 1e7:
		return bad("range of CPUs starts at 0.01")
	case r.CPUPeriod != 0 && (r.CPUPeriod < 1000 || r.CPUPeriod > 1000000):
		return bad("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
	case r.CPUQuota > 0 && r.CPUQuota < 1000:
		return bad("CPU cfs quota can not be less than 1ms (i.e. 1000)")
	case r.CPUShares < 0:
		return bad("invalid CPU shares (%d): value must be a positive integer", r.CPUShares)
	case r.CPURTPeriod != 0 && r.CPURTRuntime > r.CPURTPeriod:
		return bad("cpu real-time runtime cannot be higher than cpu real-time period")
	case r.BlkioWeight > 0 && (r.BlkioWeight < 10 || r.BlkioWeight > 1000):
		return bad("range of blkio weight is from 10 to 1000")
	}
	for _, w := range r.BlkioWeightDevice {
		if w.Weight < 10 || w.Weight > 1000 {
			return bad("invalid weight for device: %s:%d: range is from 10 to 1000", w.Path, w.Weight)
		}
	}
	if _, err := parseList(r.CpusetCpus); err != nil {
		return bad("invalid value %s for cpuset cpus", r.CpusetCpus)
	}
	if _, err := parseList(r.CpusetMems); err != nil {
		return bad("invalid value %s for cpuset mems", r.CpusetMems)
	}
	return nil
}
