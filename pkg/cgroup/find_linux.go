package cgroup

import (
	"os"
	"path/filepath"
)

// Find returns the directories that exist for path, in the hierarchies that a
// container may have one in: those of a running container, or what a killed
// command left.
func (h *Host) Find(path string) Dirs {
	var d Dirs
	if path == "" {
		return d
	}
	for _, hy := range h.hierarchies {
		if !hy.usable {
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
