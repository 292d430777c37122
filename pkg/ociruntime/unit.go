package ociruntime

import (
	"context"

	"cais.dev/cais/pkg/cgroup"
)

// startUnit has systemd move the process, which waits, into a scope, and limits it
// there.
func (c *Container) startUnit(ctx context.Context, p *Process) error {
	u, err := cgroup.OCIUnit(p.spec.Linux.CgroupsPath, c.rec.ID)
	if err != nil {
		return err
	}
	h, err := c.r.cgroups()
	if err != nil {
		return err
	}
	if err := c.save(); err != nil { // delete finds the unit
		return err
	}
	dir, err := cgroup.StartUnit(ctx, u, p.PID)
	if err != nil {
		return err
	}
	if c.rec.Cgroup, err = h.Below(dir); err != nil {
		return err
	}
	if err := h.UpdateOCI(c.rec.Cgroup, resources(p.spec)); err != nil {
		return err
	}
	return p.proc.Release()
}
