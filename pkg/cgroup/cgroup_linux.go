// Package cgroup makes, limits, measures, empties and removes the cgroups of a
// container, on hosts with cgroup v1, v2 and any mixture of them.
package cgroup

import (
	"context"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options say which cgroups to make.
type Options struct {
	ID        string                // the container's
	Path      string                // below each hierarchy's base: what [Path] returned
	Resources *specs.LinuxResources // what to apply; nil: nothing
}

// Dirs are the directories made for one container, one in each hierarchy that
// can be used; empty when none can.
type Dirs struct {
	// Procs are the files that a process joins the cgroups by: it writes "0".
	Procs []string
	// Remove are the directories to remove once no process is left, in order.
	Remove []string
}

// Create makes the container's cgroups and applies its resources. What this
// host cannot apply is a warning that names the flag. If it fails, nothing is
// left.
func Create(ctx context.Context, h *Host, o Options) (Dirs, []plan.Warning, error) {
	return Dirs{}, nil, errs.New(errs.Unsupported, "cgroups are not written yet")
}

// Host is where the hierarchies of this machine are mounted, and which of them
// we may make directories in.
type Host struct{}

// Detect finds them.
func Detect() (*Host, error) {
	return nil, errs.New(errs.Unsupported, "cgroups are not written yet")
}

// Path returns where the container's cgroup goes below each hierarchy: parent
// (--cgroup-parent, may be empty) and the id.
func (h *Host) Path(parent, id string) (string, error) {
	return "", errs.New(errs.Unsupported, "cgroups are not written yet")
}

// Plan returns what planning has to know.
func (h *Host) Plan() plan.Cgroups { return plan.Cgroups{} }

// KillAll kills every process in dirs, and waits for none of them.
func KillAll(dirs []string) error {
	return errs.New(errs.Unsupported, "cgroups are not written yet")
}

// Remove removes dirs, which must be empty of processes; one that is gone
// already is no error. It waits a moment for the kernel to let go of the last
// process, until ctx ends.
func Remove(ctx context.Context, dirs []string) error {
	return errs.New(errs.Unsupported, "cgroups are not written yet")
}
