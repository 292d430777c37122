package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// OCIPath returns where the container id goes below each hierarchy's base by a
// spec's cgroupsPath: the path that it gives, or one made from the id. It is ""
// when no hierarchy can be used.
func (h *Host) OCIPath(cgroupsPath, id string) (string, error) {
	if !slices.ContainsFunc(h.hierarchies, func(hy *hierarchy) bool { return hy.usable() }) {
		return "", nil
	}
	if slices.Contains(strings.Split(cgroupsPath, "/"), "..") || strings.ContainsAny(cgroupsPath, "\n\x00") {
		return "", errs.New(errs.Invalid, fmt.Sprintf("invalid cgroupsPath %q", cgroupsPath))
	}
	if p := path.Join("/", cgroupsPath); p != "/" {
		return p, nil
	}
	return "/" + prefix + id, nil
}

// CreateOCI makes a directory at o.Path in every hierarchy that can be used and
// applies the limits; one that cannot be applied is an error. A directory that is
// there already is used if it holds no process.
func CreateOCI(ctx context.Context, h *Host, o Options) (d Dirs, err error) {
	if o.Path == "" {
		return Dirs{}, h.lacks(o.Resources)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, RemoveOCI(context.WithoutCancel(ctx), h, d.Remove))
			d = Dirs{}
		}
	}()
	for _, hy := range h.hierarchies {
		if !hy.usable() {
			continue
		}
		dir, err := hy.mkdir(o.Path, slices.Clone(hy.controllers))
		if errors.Is(err, fs.ErrExist) {
			dir = filepath.Join(hy.base, o.Path)
			pids, perr := processes(dir)
			if perr == nil && len(pids) > 0 {
				perr = fmt.Errorf("the cgroup %s is in use", dir)
			}
			err = perr
		}
		if err != nil {
			return d, errs.E("make the container's cgroup", errs.Denied, err)
		}
		d.Remove = append(d.Remove, dir)
		d.Procs = append(d.Procs, hy.door(dir))
	}
	return d, h.UpdateOCI(o.Path, o.Resources)
}

// Below returns the path, as [Host.OCIPath] has it, of a directory of the v2 tree
// that is given as /proc/PID/cgroup has it.
func (h *Host) Below(dir string) (string, error) {
	for _, hy := range h.hierarchies {
		if rel, ok := strings.CutPrefix(filepath.Join(hy.mount, dir), hy.base); ok && hy.version == 2 && hy.usable() {
			return rel, nil
		}
	}
	return "", errs.New(errs.Unsupported, "the cgroup "+dir+" is not one that can be limited here")
}

// UpdateOCI applies res to the container's directories at p. What res does not
// name stays as it is.
func (h *Host) UpdateOCI(p string, res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	res = withoutZeros(*res)
	if err := h.lacks(res); err != nil {
		return err
	}
	a := applier{res: res}
	for _, hy := range h.hierarchies {
		if !hy.usable() {
			continue
		}
		dir := filepath.Join(hy.base, p)
		a.apply(hy, dir)
		a.more(hy, dir)
	}
	if len(res.Devices) > 0 && !a.devicesDone && a.devicesErr != nil {
		a.failed = append(a.failed, a.devicesErr)
	}
	if len(a.failed) > 0 {
		return errs.E("apply the container's limits", errs.Invalid, errors.Join(a.failed...))
	}
	return nil
}

// withoutZeros is res without the zeros by which engines say that nothing was asked
// for (dockerd writes them all): the kernel refuses them, or takes them for the least
// there is.
func withoutZeros(res specs.LinuxResources) *specs.LinuxResources {
	if res.CPU != nil {
		c := *res.CPU
		c.Shares, c.Period, c.Quota = unlessZero(c.Shares), unlessZero(c.Period), unlessZero(c.Quota)
		c.RealtimePeriod, c.RealtimeRuntime = unlessZero(c.RealtimePeriod), unlessZero(c.RealtimeRuntime)
		res.CPU = &c
	}
	if res.Memory != nil {
		m := *res.Memory
		m.Limit, m.Swap, m.Reservation = unlessZero(m.Limit), unlessZero(m.Swap), unlessZero(m.Reservation)
		res.Memory = &m
	}
	if res.BlockIO != nil {
		b := *res.BlockIO
		b.Weight = unlessZero(b.Weight)
		res.BlockIO = &b
	}
	return &res
}

func unlessZero[T int64 | uint64 | uint16](n *T) *T {
	if n != nil && *n == 0 {
		return nil
	}
	return n
}

// lacks fails if res limits what no hierarchy here can.
func (h *Host) lacks(res *specs.LinuxResources) error {
	if res == nil {
		return nil
	}
	have := map[string]bool{}
	for _, hy := range h.hierarchies {
		for _, c := range hy.controllers {
			have[c] = have[c] || hy.usable()
		}
		have["unified"] = have["unified"] || hy.unified && hy.usable()
	}
	for _, w := range []struct {
		wanted bool
		names  []string
	}{
		{res.Memory != nil && (res.Memory.Limit != nil || res.Memory.Swap != nil || res.Memory.Reservation != nil), []string{"memory"}},
		{res.CPU != nil && (res.CPU.Shares != nil || res.CPU.Quota != nil || res.CPU.Period != nil), []string{"cpu"}},
		{res.CPU != nil && (res.CPU.Cpus != "" || res.CPU.Mems != ""), []string{"cpuset"}},
		{res.Pids != nil && res.Pids.Limit != nil, []string{"pids"}},
		{res.BlockIO != nil && (res.BlockIO.Weight != nil || len(res.BlockIO.ThrottleReadBpsDevice)+len(res.BlockIO.ThrottleWriteBpsDevice) > 0), []string{"blkio", "io"}},
		{len(res.HugepageLimits) > 0, []string{"hugetlb"}},
		{res.Network != nil && res.Network.ClassID != nil, []string{"net_cls"}},
		{res.Network != nil && len(res.Network.Priorities) > 0, []string{"net_prio"}},
		{len(res.Rdma) > 0, []string{"rdma"}},
		{len(res.Unified) > 0, []string{"unified"}},
	} {
		if w.wanted && !slices.ContainsFunc(w.names, func(n string) bool { return have[n] }) {
			return errs.New(errs.Unsupported, fmt.Sprintf("the cgroup controller %s is not available here", w.names[0]))
		}
	}
	return nil
}

// more applies what only a spec can ask for, and no flag of ours.
func (a *applier) more(hy *hierarchy, dir string) {
	has := func(c string) bool { return slices.Contains(hy.controllers, c) }
	v2 := hy.version == 2
	if c := a.res.CPU; c != nil && has("cpu") {
		if c.Burst != nil {
			file, value := "cpu.cfs_burst_us", strconv.FormatUint(*c.Burst, 10)
			if v2 {
				file = "cpu.max.burst"
			}
			a.set("cpu-burst", dir, file, value)
		}
		if c.Idle != nil {
			a.set("cpu-idle", dir, "cpu.idle", number(*c.Idle))
		}
	}
	if m := a.res.Memory; m != nil && has("memory") && !v2 {
		//lint:ignore SA1019 bundles for cgroup v1 still say it
		for file, limit := range map[string]*int64{"memory.kmem.limit_in_bytes": m.Kernel, "memory.kmem.tcp.limit_in_bytes": m.KernelTCP} {
			if limit == nil {
				continue
			}
			err := write(dir, file, number(*limit))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EINVAL) { // newer kernels have none
				a.failed = append(a.failed, err)
			}
		}
	}
	if has("hugetlb") {
		for _, l := range a.res.HugepageLimits {
			file := "hugetlb." + l.Pagesize + ".limit_in_bytes"
			if v2 {
				file = "hugetlb." + l.Pagesize + ".max"
			}
			a.set("hugetlb", dir, filepath.Base(file), strconv.FormatUint(l.Limit, 10))
		}
	}
	if n := a.res.Network; n != nil {
		if n.ClassID != nil && has("net_cls") {
			a.set("net-cls", dir, "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10))
		}
		for _, p := range n.Priorities {
			if has("net_prio") {
				a.set("net-prio", dir, "net_prio.ifpriomap", fmt.Sprintf("%s %d", p.Name, p.Priority))
			}
		}
	}
	if has("rdma") {
		for _, name := range slices.Sorted(maps.Keys(a.res.Rdma)) {
			r := a.res.Rdma[name]
			line := name
			if r.HcaHandles != nil {
				line += fmt.Sprintf(" hca_handle=%d", *r.HcaHandles)
			}
			if r.HcaObjects != nil {
				line += fmt.Sprintf(" hca_object=%d", *r.HcaObjects)
			}
			a.set("rdma", dir, "rdma.max", line)
		}
	}
	if hy.unified {
		for _, key := range slices.Sorted(maps.Keys(a.res.Unified)) {
			if strings.Contains(key, "/") || !strings.Contains(key, ".") {
				a.failed = append(a.failed, fmt.Errorf("%q is no file of a cgroup", key))
				continue
			}
			a.set("unified", dir, key, a.res.Unified[key])
		}
	}
}

// ours refuses to kill in, or to remove, what is no container's: a hierarchy's
// root, what is above our own cgroup, and what is on another file system.
func (h *Host) ours(dir string) error {
	for _, hy := range h.hierarchies {
		rel, ok := strings.CutPrefix(dir, hy.mount+"/")
		if !ok {
			continue
		}
		if rel == "" || dir == hy.base || strings.HasPrefix(hy.base+"/", dir+"/") {
			return fmt.Errorf("%s is no container's cgroup", dir)
		}
		return nil
	}
	return fmt.Errorf("%s is in no cgroup hierarchy", dir)
}

// KillOCI kills every process in dirs with sig's strongest form, SIGKILL.
func KillOCI(h *Host, dirs []string) error {
	var failed []error
	for _, dir := range dirs {
		if err := h.ours(dir); err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, kill(dir))
	}
	return errors.Join(failed...)
}

// RemoveOCI is [Remove] for the directories of a spec's cgroupsPath.
func RemoveOCI(ctx context.Context, h *Host, dirs []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var failed []error
	for _, dir := range dirs {
		if err := h.ours(dir); err != nil {
			failed = append(failed, err)
			continue
		}
		failed = append(failed, removeTree(ctx, dir))
	}
	return errors.Join(failed...)
}

// Processes returns the pids in dirs and below, each once.
func Processes(dirs []string) ([]int, error) {
	var all []int
	for _, dir := range dirs {
		pids, err := processes(dir)
		if err != nil {
			return nil, err
		}
		all = append(all, pids...)
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

// Frozen reports whether the processes in dirs are stopped by a freezer.
func Frozen(dirs []string) bool {
	for _, dir := range dirs {
		if text, err := os.ReadFile(filepath.Join(dir, "freezer.state")); err == nil && strings.TrimSpace(string(text)) != "THAWED" {
			return true
		}
		if text, err := os.ReadFile(filepath.Join(dir, "cgroup.freeze")); err == nil && strings.TrimSpace(string(text)) == "1" {
			return true
		}
	}
	return false
}

// SetFrozen freezes the processes in dirs, or thaws them, and waits until it is so.
// A freeze that does not come to be is undone.
func SetFrozen(ctx context.Context, dirs []string, frozen bool) error {
	v1, v2 := "THAWED", "0"
	if frozen {
		v1, v2 = "FROZEN", "1"
	}
	for _, dir := range dirs {
		file, value := "freezer.state", v1
		if !exists(filepath.Join(dir, file)) {
			if file, value = "cgroup.freeze", v2; !exists(filepath.Join(dir, file)) {
				continue
			}
		}
		err := write(dir, file, value)
		for wait := time.Millisecond; err == nil && !settled(dir, file, value); wait = min(2*wait, 20*time.Millisecond) {
			select {
			case <-ctx.Done():
				err = context.Cause(ctx)
			case <-time.After(wait):
				if file == "freezer.state" {
					err = write(dir, file, value) // v1 forgets those that forked meanwhile
				}
			}
		}
		if err != nil {
			if frozen {
				_ = write(dir, "freezer.state", "THAWED") // one of the two does not exist
				_ = write(dir, "cgroup.freeze", "0")
			}
			return fmt.Errorf("freeze %s: %w", dir, err)
		}
		return nil
	}
	return errs.New(errs.Unsupported, "no freezer is available here")
}

func settled(dir, file, value string) bool {
	if file == "freezer.state" {
		text, err := os.ReadFile(filepath.Join(dir, file))
		return err != nil || strings.TrimSpace(string(text)) == value
	}
	events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
	return err != nil || strings.Contains(string(events), "frozen "+value)
}
