package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
)

func (s *Service) cgroupPath(parent, id string) (string, error) {
	h, err := s.cgroups()
	if err != nil {
		return "", err
	}
	return h.Path(parent, id)
}

// makeCgroups makes the container's cgroups for one run.
func (s *Service) makeCgroups(ctx context.Context, rec *container.Record, spec *specs.Spec, m **session.Monitor) (cgroup.Dirs, []plan.Warning, error) {
	if rec.Cgroup == "" {
		return cgroup.Dirs{}, nil, nil
	}
	h, err := s.cgroups()
	if err != nil {
		return cgroup.Dirs{}, nil, err
	}
	if h.Scoped() {
		if !h.NeedsScope(rec.Cgroup, spec.Linux.Resources) {
			return cgroup.Dirs{}, nil, nil
		}
		if err := s.scope(ctx, h, rec.ID, m); err != nil {
			s.log.Debug("no scope", "container", rec.ID, "error", err)
			w := plan.Warning{Flag: "memory", Text: "systemd did not give the container a cgroup, so it has no limits: " + err.Error()}
			return cgroup.Dirs{}, []plan.Warning{w}, nil
		}
	}
	o := cgroup.Options{ID: rec.ID, Path: rec.Cgroup, Resources: spec.Linux.Resources, Strict: rec.Request.StrictLimits}
	dirs, warnings, err := cgroup.Create(ctx, h, o)
	if !errors.Is(err, fs.ErrExist) {
		return dirs, warnings, err
	}
	// A killed command left them: whoever holds this container's lock may use its name.
	left := h.Find(rec.Cgroup).Remove
	if err := errors.Join(cgroup.KillAll(left), cgroup.Remove(ctx, left)); err != nil {
		return cgroup.Dirs{}, nil, fmt.Errorf("remove left-over cgroups: %w", err)
	}
	return cgroup.Create(ctx, h, o)
}

// freezer returns the directory that pausing will make, and adds it, and what
// changed limits may make, to those to remove.
func (s *Service) freezer(rec *container.Record, dirs *cgroup.Dirs) (string, error) {
	if len(dirs.Remove) == 0 {
		return "", nil
	}
	h, err := s.cgroups()
	if err != nil {
		return "", err
	}
	for _, dir := range h.All(rec.Cgroup) {
		if !slices.Contains(dirs.Remove, dir) {
			dirs.Remove = append(dirs.Remove, dir)
		}
	}
	if foreign(rec.Request) {
		dirs.Remove = append(dirs.Remove, h.Others(rec.Cgroup)...)
	}
	return h.Freezer(rec.Cgroup), nil
}

// scope puts the monitor, which is started if there is none, into a scope of
// systemd's.
func (s *Service) scope(ctx context.Context, h *cgroup.Host, id string, m **session.Monitor) error {
	if *m == nil {
		made, err := s.Ready(ctx)
		if err != nil {
			return err
		}
		*m = made
	}
	pid, err := (*m).PID()
	if err != nil {
		return err
	}
	return h.Scope(ctx, id, pid)
}

// dirs returns the cgroups that the container has now.
func (s *Service) dirs(c *container.Container) cgroup.Dirs {
	if c.Record.Cgroup == "" {
		return cgroup.Dirs{}
	}
	h, err := s.cgroups()
	if err != nil {
		s.log.Warn("where a container's cgroups are is not known", "container", c.ID, "error", err)
		return cgroup.Dirs{}
	}
	d := h.Find(c.Record.Cgroup)
	if foreign(c.Record.Request) {
		d.Remove = append(d.Remove, h.Others(c.Record.Cgroup)...)
	}
	return d
}

// leftovers kills what a killed monitor left running and removes the
// container's cgroups. Failing is no reason to keep a container.
func (s *Service) leftovers(ctx context.Context, c *container.Container) {
	if err := s.signalKill(c); err != nil {
		s.log.Warn("a left-over process stays", "container", c.ID, "error", err)
	}
	dirs := s.dirs(c).Remove
	if len(dirs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second) // a caller that gave up leaves it to us all the same
	defer cancel()
	if err := errors.Join(cgroup.KillAll(dirs), cgroup.Remove(ctx, dirs)); err != nil {
		s.log.Warn("a cgroup stays", "container", c.ID, "error", err)
	}
}
