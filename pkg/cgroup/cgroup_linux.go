// Package cgroup makes, limits, measures, empties and removes the cgroups of a
// container, on hosts with cgroup v1, v2 and any mixture of them.
//
// A container's directory is called cais-<id>, in each hierarchy that it needs:
// directly below what a hierarchy shows of itself as root, below the highest
// directory delegated to us as an ordinary user, or below --cgroup-parent.
// Nothing is made where statfs does not say that it is a cgroup file system.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Options say which cgroups to make.
type Options struct {
	ID        string                // the container's
	Path      string                // below each hierarchy's base: what [Host.Path] returned
	Resources *specs.LinuxResources // what to apply; nil: nothing
	Strict    bool                  // a limit that cannot be applied is an error
}

// Dirs are the directories made for one container, one in each hierarchy that
// can be used; empty when none can.
type Dirs struct {
	// Procs are the files that a process of one thread joins the cgroups by: its
	// pid is written there, or "0" by itself.
	Procs []string
	// Remove are the directories to remove once no process is left, in order.
	Remove []string
}

// Create makes the container's cgroups and applies its resources. What this
// host cannot apply is a warning that names the flag, but the rules for devices
// must hold. If it fails, nothing is left.
func Create(ctx context.Context, h *Host, o Options) (d Dirs, warnings []plan.Warning, err error) {
	if o.Path == "" {
		return Dirs{}, nil, nil
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(context.WithoutCancel(ctx), d.Remove))
			d = Dirs{}
		}
	}()
	res := o.Resources
	if res == nil {
		res = &specs.LinuxResources{}
	}
	a := applier{res: res}
	for _, hy := range h.hierarchies {
		if !hy.usable() || !hy.needed(res) {
			continue
		}
		dir, err := hy.mkdir(o.Path, h.wanted(hy, res))
		if err != nil {
			// Detect saw a directory that we may write, so this is news.
			return d, warnings, errs.E("make the container's cgroup", errs.Denied, err)
		}
		d.Remove = append(d.Remove, dir)
		d.Procs = append(d.Procs, hy.door(dir))
		a.apply(hy, dir)
	}
	if len(res.Devices) > 0 && !a.devicesDone {
		return d, warnings, errs.E("restrict the container's devices", errs.Denied, errors.Join(a.devicesErr, errors.New("no devices cgroup could be used")))
	}
	if o.Strict && len(a.warnings) > 0 {
		return d, warnings, errs.New(errs.Unsupported, a.warnings[0].Text)
	}
	return d, a.warnings, nil
}

// door is the file by which a process of a single thread joins dir. To move a whole
// process the kernel stops every fork and exit on the machine, for which it waits
// until each processor has passed a quiet state: 5 to 15 ms, unless it was done
// just before. A thread that moves itself by v1's tasks spares that (Linux 5.8). On
// v2 a thread cannot move alone.
func (hy *hierarchy) door(dir string) string {
	if hy.version == 1 {
		return filepath.Join(dir, "tasks")
	}
	return filepath.Join(dir, "cgroup.procs")
}

// needed says whether a container gets a directory in this hierarchy. Joining
// each costs some 80 µs, so cpuset, blkio, freezer and the like wait until
// they are asked for; memory, cpu and pids are there for stats and for killing,
// devices as root for safety.
func (hy *hierarchy) needed(res *specs.LinuxResources) bool {
	if hy.unified {
		return true
	}
	for _, c := range hy.controllers {
		switch c {
		case "memory", "cpu", "cpuacct", "pids", "devices":
			return true
		case "cpuset":
			if res.CPU != nil && (res.CPU.Cpus != "" || res.CPU.Mems != "") {
				return true
			}
		case "blkio", "io":
			if res.BlockIO != nil {
				return true
			}
		}
	}
	return false
}

// wanted are the v2 controllers that must be on in the container's directory.
func (h *Host) wanted(hy *hierarchy, res *specs.LinuxResources) []string {
	if hy.version != 2 {
		return nil
	}
	list := []string{"memory", "cpu", "pids"} // for stats, too
	if res.CPU != nil && (res.CPU.Cpus != "" || res.CPU.Mems != "") {
		list = append(list, "cpuset")
	}
	if res.BlockIO != nil {
		list = append(list, "io")
	}
	return slices.DeleteFunc(list, func(c string) bool { return !slices.Contains(hy.controllers, c) })
}

// mkdir makes path below the base, switching controllers on from the top, or in
// v1's cpuset filling in what the kernel wants before anybody may join.
func (hy *hierarchy) mkdir(path string, controllers []string) (string, error) {
	if err := isCgroup(hy.base, hy.version); err != nil {
		return "", err
	}
	dir := hy.base
	parts := strings.Split(strings.Trim(path, "/"), "/")
	for i, part := range parts {
		if hy.version == 2 {
			enable(dir, controllers)
		}
		parent := dir
		dir = filepath.Join(dir, part)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) && i < len(parts)-1 {
			err = nil
		}
		if err != nil {
			return "", err
		}
		if slices.Contains(hy.controllers, "cpuset") && hy.version == 1 {
			if err := inheritCpuset(parent, dir); err != nil {
				return "", errors.Join(err, os.Remove(dir))
			}
		}
	}
	return dir, nil
}

// enable switches controllers on for dir's children, one by one: a single one
// that cannot be had must not take the others with it. Failing shows later, as
// a limit's file that is missing.
func enable(dir string, controllers []string) {
	on, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return
	}
	have := strings.Fields(string(on))
	for _, c := range controllers {
		if !slices.Contains(have, c) {
			_ = write(dir, "cgroup.subtree_control", "+"+c)
		}
	}
}

// inheritCpuset copies the parent's cpus and memory nodes: a v1 cpuset without
// them takes no process (ENOSPC).
func inheritCpuset(parent, dir string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(have)) != "" {
			continue
		}
		of, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return err
		}
		if err := write(dir, file, strings.TrimSpace(string(of))); err != nil {
			return err
		}
	}
	return nil
}

// write sets one of the kernel's files. It never makes one.
func write(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// isCgroup refuses a directory that is not on a cgroup file system: on hybrid
// hosts the tmpfs that holds the hierarchies takes a mkdir as well.
func isCgroup(dir string, version int) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	want := int64(unix.CGROUP_SUPER_MAGIC)
	if version == 2 {
		want = unix.CGROUP2_SUPER_MAGIC
	}
	if int64(st.Type) != want {
		return fmt.Errorf("%s is not a cgroup file system", dir)
	}
	return nil
}

// prefix begins the name of a container's directory.
const prefix = "cais-"

// own reports whether dir is named as a container's directory is: with the prefix,
// or below a --cgroup-parent, as Docker has it, with the container's id alone.
func own(dir string) bool {
	name := filepath.Base(dir)
	return strings.HasPrefix(name, prefix) || len(name) == 64 && strings.Trim(name, "0123456789abcdef") == ""
}

// Remove removes dirs, which must be empty of processes; one that is gone
// already is no error. It waits a moment for the kernel to let go of the last
// process, until ctx ends or two seconds have passed.
func Remove(ctx context.Context, dirs []string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var failed []error
	for _, dir := range dirs {
		if !own(dir) {
			failed = append(failed, fmt.Errorf("%s is no container's cgroup", dir))
			continue
		}
		failed = append(failed, removeTree(ctx, dir))
	}
	return errors.Join(failed...)
}

func removeTree(ctx context.Context, dir string) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := rmdirs(dir)
		if err == nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
		// There is no event for "the last task has been released" in v1.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(min(wait, 50*time.Millisecond)):
		}
	}
}

// rmdirs removes dir and what the container may have made below it.
func rmdirs(dir string) error {
	err := unix.Rmdir(dir)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY):
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	entries, readErr := os.ReadDir(dir)
	if errors.Is(readErr, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := rmdirs(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
}
