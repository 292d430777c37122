package run

import (
	"context"
	"fmt"
	"reflect"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
	"cais.dev/cais/pkg/run/session"
)

// UpdateOptions are what Update changes. What is zero stays.
type UpdateOptions struct {
	Resources plan.Resources
	Restart   *plan.RestartPolicy
}

// Update changes a container's limits, at once if it runs, and its restart
// policy. What this host cannot limit is a warning.
func (s *Service) Update(ctx context.Context, ref string, o UpdateOptions) ([]plan.Warning, error) {
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if o.Restart != nil && c.Record.AutoRemove() && o.Restart.Name != "no" && o.Restart.Name != "" {
		return nil, errs.New(errs.Invalid, "restart policy cannot be updated because AutoRemove is enabled for the container")
	}
	var warnings []plan.Warning
	if !reflect.ValueOf(o.Resources).IsZero() {
		if warnings, err = s.limit(c, o.Resources); err != nil {
			return nil, err
		}
	}
	if o.Restart != nil {
		c.Settings.Restart = *o.Restart
	}
	if err := s.store.WriteSettings(c.ID, c.Settings, true); err != nil {
		return warnings, err
	}
	if o.Restart != nil && c.Alive {
		err = session.Reload(ctx, c.Dir, false)
	}
	s.tell(c, "update")
	return warnings, err
}

// limit puts the changes over the container's limits and applies them.
func (s *Service) limit(c *container.Container, change plan.Resources) ([]plan.Warning, error) {
	now, err := merge(c.Limits(), change)
	if err != nil {
		return nil, err
	}
	req := c.Record.Request
	req.Resources = now
	res, _, err := s.limits(req)
	if err != nil {
		return nil, err
	}
	c.Settings.Resources = &now
	// What is said of limits that were there before has been said.
	only := req
	only.Resources = change
	if change.MemorySwap != 0 && change.Memory == 0 { // the one means nothing without the other
		only.Resources.Memory = now.Memory
	}
	_, warnings, err := s.limits(only)
	if err != nil || !c.Running() || c.Record.Cgroup == "" {
		return warnings, err
	}
	h, err := s.cgroups()
	if err != nil {
		return nil, err
	}
	more, err := cgroup.Update(h, c.Record.Cgroup, res)
	return append(warnings, more...), err
}

// limits are a request's limits as the spec has them, without rules for devices.
func (s *Service) limits(req plan.Request) (*specs.LinuxResources, []plan.Warning, error) {
	host, err := s.planHost()
	if err != nil {
		return nil, nil, err
	}
	in := plan.Inputs{}
	blkio := plan.Request{Resources: req.Resources}
	if err := probe.Devices(blkio, &in); err != nil {
		return nil, nil, err
	}
	return plan.Limits(req, host, in)
}

// merge returns the limits old with those of change that are set.
func merge(old, change plan.Resources) (plan.Resources, error) {
	switch {
	case change.NanoCPUs > 0 && (old.CPUPeriod > 0 || old.CPUQuota > 0):
		return old, errs.New(errs.Conflict, "conflicting options: Nano CPUs cannot be updated as CPU Period or CPU Quota has already been set")
	case (change.CPUPeriod > 0 || change.CPUQuota > 0) && old.NanoCPUs > 0:
		return old, errs.New(errs.Conflict, "conflicting options: CPU Period and CPU Quota cannot be updated as NanoCPUs has already been set")
	}
	if change.Memory > 0 && change.MemorySwap == 0 {
		swap := old.MemorySwap
		if swap == 0 {
			swap = 2 * old.Memory
		}
		if swap > 0 && change.Memory > swap {
			return old, errs.New(errs.Conflict, "memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
		}
		change.MemorySwap = swap
		if swap == 0 {
			change.MemorySwap = 2 * change.Memory
		}
	}
	now := old
	from, to := reflect.ValueOf(change), reflect.ValueOf(&now).Elem()
	for i := range from.NumField() {
		if f := from.Field(i); !f.IsZero() {
			to.Field(i).Set(f)
		}
	}
	return now, plan.CheckResources(now)
}

// limited puts limits that were changed since the container was made into its
// spec.
func (s *Service) limited(spec *specs.Spec, rec *container.Record, settings *container.Settings) (*container.Record, error) {
	if settings.Resources == nil {
		return rec, nil
	}
	now := *rec
	now.Request.Resources = *settings.Resources
	res, _, err := s.limits(now.Request)
	if err != nil {
		return rec, fmt.Errorf("the container's limits: %w", err)
	}
	if res == nil {
		res = &specs.LinuxResources{}
	}
	if spec.Linux.Resources != nil {
		res.Devices = spec.Linux.Resources.Devices
	}
	spec.Linux.Resources = res
	return &now, nil
}
