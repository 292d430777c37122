package cgroup

import (
	"os"
	"path/filepath"
	"slices"
)

// Freezer returns the directory for path in v1's freezer hierarchy, which need
// not exist; "" where v2 can freeze, or nothing can. What is above it is made.
func (h *Host) Freezer(path string) string {
	if path == "" || h.unified {
		return ""
	}
	for _, hy := range h.hierarchies {
		if hy.usable() && hy.version == 1 && slices.Contains(hy.controllers, "freezer") && isCgroup(hy.base, 1) == nil {
			dir := filepath.Join(hy.base, path)
			if os.MkdirAll(filepath.Dir(dir), 0o755) != nil {
				return ""
			}
			return dir
		}
	}
	return ""
}

// Find returns the directories that exist for path, in the hierarchies that a
// container may have one in: those of a running container, or what a killed
// command left.
func (h *Host) Find(path string) Dirs {
	var d Dirs
	if path == "" {
		return d
	}
	for _, hy := range h.hierarchies {
		if hy.base == "" {
			continue
		}
		dir := filepath.Join(hy.base, path)
		if _, err := os.Lstat(dir); err == nil {
			d.Remove = append(d.Remove, dir)
			d.Procs = append(d.Procs, hy.door(dir))
		}
	}
	return d
}

// Others returns the directories that another runtime may have made for path in
// hierarchies that we leave alone: systemd's own, which has no controllers.
func (h *Host) Others(path string) []string {
	const named = "/sys/fs/cgroup/systemd"
	if path == "" || isCgroup(named, 1) != nil {
		return nil
	}
	return []string{filepath.Join(named, path)}
}
