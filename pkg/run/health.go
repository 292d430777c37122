package run

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// Probe has a container's monitor run the health check now. The caller closes the
// session.
func (s *Service) Probe(ctx context.Context, ref string) (*session.Session, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	h := plan.Health(c.Record.Request, c.Record.Image)
	args := plan.HealthCommand(h, c.Record.Image)
	if len(args) == 0 {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("container %s has no health check", ref))
	}
	return s.Exec(ctx, c.ID, ExecOptions{
		Request: plan.ExecRequest{Args: args}, Attach: wire.Attach{Stdout: true, Stderr: true}, Probe: true,
	})
}

// health is how the monitor probes the container: with a process like one of
// exec, as the container's user, in its directory and environment.
func (s *Service) health(rec *container.Record, spec *specs.Spec, host plan.Host, dirs cgroup.Dirs) (wire.Health, error) {
	h := plan.Health(rec.Request, rec.Image)
	args := plan.HealthCommand(h, rec.Image)
	if len(args) == 0 {
		return wire.Health{}, nil
	}
	proc, err := plan.Exec(plan.Container{Spec: spec, Request: rec.Request, Image: rec.Image}, plan.ExecRequest{Args: args}, host, plan.Inputs{ID: rec.ID})
	if err != nil {
		return wire.Health{}, err
	}
	own := *spec
	own.Process = proc
	filter, err := s.filter(rec.Request, &own, host)
	if err != nil {
		return wire.Health{}, err
	}
	p, err := s.execPlan(rec, spec, proc, lower.ExecOptions{
		Seccomp: filter.Code, SeccompFlags: filter.Flags, InUserNS: host.InUserNS, SingleID: host.SingleID, CgroupProcs: dirs.Procs,
	})
	if err != nil {
		return wire.Health{}, err
	}
	return wire.Health{
		Plan: p.Marshal(), Interval: int64(h.Interval), Timeout: int64(h.Timeout), StartPeriod: int64(h.StartPeriod),
		StartInterval: int64(h.StartInterval), Retries: h.Retries, OnFailure: rec.Request.HealthOnFailure,
	}, nil
}
