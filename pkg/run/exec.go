package run

import (
	"context"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// ExecOptions are what Exec starts in a container.
type ExecOptions struct {
	Request plan.ExecRequest
	Detach  bool
	Attach  wire.Attach
	Probe   bool // it is the container's health check
}

// Exec starts another process in a running container. The image store is not
// opened. The caller closes the session.
func (s *Service) Exec(ctx context.Context, ref string, o ExecOptions) (*session.Session, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := executable(c, ref); err != nil {
		return nil, err
	}
	spec, err := s.spec(c.ID)
	if err != nil {
		return nil, err
	}
	host, err := s.host()
	if err != nil {
		return nil, err
	}
	host = host.Nested(c.Record.IDs)
	in := plan.Inputs{ID: c.ID}
	if o.Request.User != "" {
		if err := s.userFiles(c, &in); err != nil {
			return nil, err
		}
	}
	proc, err := plan.Exec(plan.Container{Spec: spec, Request: c.Record.Request, Image: c.Record.Image}, o.Request, host, in)
	if err != nil {
		return nil, &session.StartError{Code: 126, Err: err} // as Docker: it was asked for, and cannot be executed
	}
	if a := o.Attach; a.Rows > 0 && a.Cols > 0 { // the program may look before the monitor can tell the terminal
		proc.ConsoleSize = &specs.Box{Height: uint(a.Rows), Width: uint(a.Cols)}
	}
	req := c.Record.Request
	if proc.Env, err = s.secretEnv(s.o.Networks.LinkEnv(proc.Env, req, c.Name()), req); err != nil {
		return nil, err
	}
	req.Privileged = o.Request.Privileged || req.Privileged
	execSpec := *spec
	execSpec.Process = proc
	filter, err := s.filter(req, &execSpec, host)
	if err != nil {
		return nil, err
	}
	lo := lower.ExecOptions{
		Seccomp: filter.Code, SeccompFlags: filter.Flags,
		InUserNS: host.InUserNS, SingleID: host.SingleID, CgroupProcs: s.dirs(c).Procs,
	}
	p, err := s.execPlan(c.Record, spec, proc, lo)
	if err != nil {
		return nil, err
	}
	execID, command := container.NewID(), commandLine(o.Request.Args)
	s.note(event(c.Record, c.Name(), "exec_create: "+command, "execID", execID), event(c.Record, c.Name(), "exec_start: "+command, "execID", execID))
	return session.Exec(ctx, c.Dir, session.ExecOptions{Plan: p.Marshal(), ID: execID, TTY: o.Request.TTY, Detach: o.Detach, Attach: o.Attach, Probe: o.Probe})
}

// userFiles reads passwd and group as the container has them now: its upper
// layer over the image's.
func (s *Service) userFiles(c *container.Container, in *plan.Inputs) error {
	d := &decided{}
	return d.look(append([]string{s.upper(c.ID)}, c.Record.Lower...), in)
}

func executable(c *container.Container, ref string) error {
	switch {
	case c.Alive && c.Status() == container.Paused:
		return errs.New(errs.Conflict, fmt.Sprintf("container %s is paused, unpause the container before exec", ref))
	case !c.Running():
		return notRunning(ref)
	}
	return nil
}

// Attach connects to a running container's streams. The caller closes the
// session.
func (s *Service) Attach(ctx context.Context, ref string, a wire.Attach) (*session.Session, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case c.Status() == container.Paused:
		return nil, errs.New(errs.Conflict, "cannot attach to a paused container, unpause it first")
	case c.Status() == container.Restarting:
		return nil, errs.New(errs.Conflict, "cannot attach to a restarting container, wait until it is running")
	case !c.Running():
		return nil, errs.New(errs.Conflict, "cannot attach to a stopped container, start it first")
	}
	s.tell(c, "attach")
	return session.Attach(ctx, c.Dir, a)
}
