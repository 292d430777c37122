package cgroup

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/run/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Update applies res to the cgroups at path, of which a container's processes are
// members. A hierarchy of v1 that only these limits need gets its directory now.
// What the kernel does not take is a warning. Rules for devices are left alone.
func Update(h *Host, path string, res *specs.LinuxResources) ([]plan.Warning, error) {
	if res == nil || path == "" {
		return nil, nil
	}
	now := *res
	now.Devices = nil
	a := applier{res: &now}
	var members []int
	for _, hy := range h.hierarchies {
		if !hy.usable() {
			continue
		}
		dir := filepath.Join(hy.base, path)
		_, err := os.Lstat(dir)
		missing := errors.Is(err, fs.ErrNotExist)
		switch {
		case missing && !hy.limits(&now):
			continue
		case missing:
			if dir, err = hy.mkdir(path, nil); err != nil {
				return a.warnings, err
			}
			if members == nil {
				members = h.members(path)
			}
			for _, pid := range members {
				_ = write(dir, "cgroup.procs", strconv.Itoa(pid)) // it may have ended
			}
		case hy.version == 2:
			enableDown(hy.base, path, h.wanted(hy, &now))
		}
		a.apply(hy, dir)
	}
	return a.warnings, nil
}

// limits says whether hierarchy hy has something to do for res that a container
// gets no directory for otherwise.
func (hy *hierarchy) limits(res *specs.LinuxResources) bool {
	if hy.version != 1 {
		return false
	}
	has := func(c string) bool { return slices.Contains(hy.controllers, c) }
	return has("cpuset") && res.CPU != nil && (res.CPU.Cpus != "" || res.CPU.Mems != "") || has("blkio") && res.BlockIO != nil
}

// members are the processes in the cgroups at path.
func (h *Host) members(path string) []int {
	for _, dir := range h.Find(path).Remove {
		if pids, err := processes(dir); err == nil && len(pids) > 0 {
			return pids
		}
	}
	return nil
}

// enableDown switches controllers on above path.
func enableDown(base, path string, controllers []string) {
	dir := base
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		enable(dir, controllers)
		dir = filepath.Join(dir, part)
	}
}

// All returns the directories for path in every hierarchy that can be used,
// whether they exist or not: what a running container may come to have.
func (h *Host) All(path string) []string {
	var dirs []string
	for _, hy := range h.hierarchies {
		if hy.usable() && path != "" {
			dirs = append(dirs, filepath.Join(hy.base, path))
		}
	}
	return dirs
}

// ReadIO returns the bytes that the cgroups at dirs read from and wrote to block
// devices; false where nobody counts them.
func ReadIO(dirs []string) (read, written uint64, ok bool) {
	for _, dir := range dirs {
		if text, err := os.ReadFile(filepath.Join(dir, "io.stat")); err == nil {
			for f := range strings.FieldsSeq(string(text)) {
				k, v, _ := strings.Cut(f, "=")
				n, _ := strconv.ParseUint(v, 10, 64) // the kernel wrote it
				switch k {
				case "rbytes":
					read += n
				case "wbytes":
					written += n
				}
			}
			ok = true
		}
		if text, err := os.ReadFile(filepath.Join(dir, "blkio.throttle.io_service_bytes_recursive")); err == nil {
			for line := range strings.Lines(string(text)) {
				f := strings.Fields(line)
				if len(f) != 3 {
					continue
				}
				n, _ := strconv.ParseUint(f[2], 10, 64) // the kernel wrote it
				switch f[1] {
				case "Read":
					read += n
				case "Write":
					written += n
				}
			}
			ok = true
		}
	}
	return read, written, ok
}
