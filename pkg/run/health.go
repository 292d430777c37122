package run

import (
	"context"
	"fmt"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// Probe runs a container's health check as its monitor does, and returns how long
// it may take. The caller closes the session.
func (s *Service) Probe(ctx context.Context, ref string) (*session.Session, time.Duration, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, 0, err
	}
	h := plan.Health(c.Record.Request, c.Record.Image)
	args := plan.HealthCommand(h, c.Record.Image)
	if len(args) == 0 {
		return nil, 0, errs.New(errs.Invalid, fmt.Sprintf("container %s has no health check", ref))
	}
	ses, err := s.Exec(ctx, c.ID, ExecOptions{
		Request: plan.ExecRequest{Args: args}, Attach: wire.Attach{Stdout: true, Stderr: true},
	})
	return ses, h.Timeout, err
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
