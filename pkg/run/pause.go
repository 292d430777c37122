package run

import (
	"context"
	"fmt"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/session"
)

// Pause freezes all processes of a running container. It fails with Conflict if
// it does not run, or is paused already.
func (s *Service) Pause(ctx context.Context, ref string) error {
	return s.setPaused(ctx, ref, true)
}

// Unpause lets a paused container go on. It fails with Conflict if it is not
// paused.
func (s *Service) Unpause(ctx context.Context, ref string) error {
	return s.setPaused(ctx, ref, false)
}

func (s *Service) setPaused(ctx context.Context, ref string, on bool) error {
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return err
	}
	defer l.Release()
	status := c.Status()
	switch {
	case status == container.Restarting:
		return errs.New(errs.Conflict, fmt.Sprintf("container %s is restarting, wait until the container is running", ref))
	case !c.Running() && on:
		return notRunning(ref)
	case on && status == container.Paused:
		return errs.New(errs.Conflict, fmt.Sprintf("container %s is already paused", ref))
	case !on && status != container.Paused:
		return errs.New(errs.Conflict, fmt.Sprintf("container %s is not paused", ref))
	}
	if err := session.Pause(ctx, c.Dir, on); err != nil {
		return err
	}
	action := "unpause"
	if on {
		action = "pause"
	}
	s.tell(c, action)
	return nil
}

// thaw lets a paused container go on, so that a signal reaches it.
func (s *Service) thaw(ctx context.Context, c *container.Container) {
	if c.Status() != container.Paused {
		return
	}
	if err := session.Pause(ctx, c.Dir, false); err != nil {
		s.log.Warn("a paused container does not go on", "container", c.ID, "error", err)
	}
}

func notRunning(ref string) error {
	return errs.New(errs.Conflict, "container "+ref+" is not running")
}
