package run

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/sys"
)

// StopOptions say how to stop a container.
type StopOptions struct {
	Signal  string         // empty: the container's own, else SIGTERM
	Timeout *time.Duration // until SIGKILL; nil: the container's own; negative: never
}

// defaultStopTimeout is Docker's.
const defaultStopTimeout = 10 * time.Second

// StopSignal is the signal that stops the container: flag, else the
// container's own, else the image's, else SIGTERM.
func StopSignal(flag string, rec *container.Record) (syscall.Signal, error) {
	for _, name := range []string{flag, rec.Request.StopSignal, rec.Image.StopSignal} {
		if name != "" {
			return parseSignal(name)
		}
	}
	return syscall.SIGTERM, nil
}

func parseSignal(name string) (syscall.Signal, error) {
	sig, err := sys.ParseSignal(name)
	if err != nil {
		return 0, errs.E("", errs.Invalid, err)
	}
	return sig, nil
}

// Stop ends a container, politely at first. One that does not run is no error.
func (s *Service) Stop(ctx context.Context, ref string, o StopOptions) (err error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return err
	}
	sig, err := StopSignal(o.Signal, c.Record)
	if err != nil {
		return err
	}
	timeout := defaultStopTimeout
	if t := c.Record.Request.StopTimeout; t != nil {
		timeout = time.Duration(*t) * time.Second
	}
	if o.Timeout != nil {
		timeout = *o.Timeout
	}
	if !c.Alive {
		return s.markStopped(ctx, c.ID)
	}
	if err := s.markStopped(ctx, c.ID); err != nil {
		return gone(err)
	}
	if err := settle(ctx, c); err != nil {
		return gone(err)
	}
	defer func() {
		if err == nil {
			s.tell(c, "stop")
			err = s.removed(ctx, c)
		}
	}()
	if timeout != 0 && c.State != nil {
		s.tell(c, "kill", "signal", strconv.Itoa(int(sig)))
		if err := s.signal(c, sig); err != nil {
			return err
		}
		s.thaw(ctx, c)
		wait := ctx
		if timeout > 0 {
			var cancel context.CancelFunc
			wait, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if err := s.waitDead(wait, c.ID); err == nil || ctx.Err() != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
	if err := c.Refresh(); err != nil {
		return gone(err)
	}
	if !c.Alive {
		return nil
	}
	s.tell(c, "kill", "signal", "9")
	if err := s.killAll(ctx, c); err != nil {
		return err
	}
	return s.waitDead(ctx, c.ID)
}

// removed sees a --rm container that has ended off: when its stop returns, its
// name is free.
func (s *Service) removed(ctx context.Context, c *container.Container) error {
	if !c.Record.AutoRemove() {
		return nil
	}
	return s.Finish(ctx, c.ID, nil, false)
}

// gone forgives a container that --rm has taken away meanwhile.
func gone(err error) error {
	if errs.KindOf(err) == errs.NotFound {
		return nil
	}
	return err
}

// markStopped keeps restart policies from starting the container again, before
// it is signalled. A monitor that waits for its next start ends; one that was killed
// has its work done.
func (s *Service) markStopped(ctx context.Context, id string) error {
	c, l, err := s.store.Take(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	err = s.dismiss(ctx, c)
	if full(err) { // the monitor knows it
		s.log.Warn("that it was stopped could not be written down: at the next boot its restart policy may start it", "container", c.Name(), "error", err)
		return nil
	}
	if err == nil && s.needsHealing(c) {
		return s.bury(ctx, c)
	}
	return err
}

// dismiss is markStopped for whoever holds the container's lock. On a full disk
// the monitor still hears of it.
func (s *Service) dismiss(ctx context.Context, c *container.Container) error {
	never := c.Settings.Restart.Name == "no" || c.Settings.Restart.Name == ""
	if c.Settings.StoppedByUser || never && c.Record.Request.HealthOnFailure != "restart" {
		return nil
	}
	c.Settings.StoppedByUser = true
	noted := s.store.WriteSettings(c.ID, c.Settings, true)
	if noted != nil && !full(noted) || !c.Alive {
		return noted
	}
	if err := session.Reload(ctx, c.Dir, true); err != nil {
		s.log.Warn("the monitor did not take note", "container", c.ID, "error", err)
	}
	return noted
}

// Kill sends a signal to a container's first process. It fails with Conflict
// unless the container runs.
func (s *Service) Kill(ctx context.Context, ref, signal string) error {
	sig, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, err := s.Find(ctx, ref)
	if err != nil {
		return err
	}
	if c.Status() == container.Restarting { // there is nothing to signal: it is not started again
		return s.markStopped(ctx, c.ID)
	}
	if !c.Running() {
		return notRunning(ref)
	}
	own, _ := StopSignal("", c.Record)
	if sig == own {
		defer s.thaw(ctx, c)
	}
	if sig == syscall.SIGKILL || sig == own {
		if err := s.markStopped(ctx, c.ID); err != nil {
			return err
		}
	}
	s.tell(c, "kill", "signal", strconv.Itoa(int(sig)))
	if sig == syscall.SIGKILL {
		if err := s.killAll(ctx, c); err != nil {
			return err
		}
		return s.waitDead(ctx, c.ID)
	}
	return s.signal(c, sig)
}

// signal signals the container's first process, if it is still the one that
// the state names.
func (s *Service) signal(c *container.Container, sig syscall.Signal) error {
	if c.State == nil || c.State.PID == 0 {
		return nil // between two runs
	}
	err := sys.SignalProcess(c.State.PID, c.State.PIDStart, sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil // it ended meanwhile
	}
	if err != nil {
		return fmt.Errorf("signal container %s: %w", c.Name(), err)
	}
	return nil
}

// killAll kills the container: with its first process, the kernel ends its pid
// namespace. One that shares another's needs its cgroups for that.
func (s *Service) killAll(ctx context.Context, c *container.Container) error {
	if err := settle(ctx, c); err != nil || !c.Alive {
		return gone(err)
	}
	if c.State == nil {
		s.log.Debug("the container's run directory is gone; its monitor is killed", "container", c.ID)
		return killMonitor(c)
	}
	if dirs := s.dirs(c); c.Record.Request.PIDMode != "" && len(dirs.Remove) > 0 {
		if err := cgroup.KillAll(dirs.Remove); err != nil {
			s.log.Warn("some processes stay", "container", c.ID, "error", err)
		}
	}
	err := s.signalKill(c)
	s.thaw(ctx, c)
	return err
}

func (s *Service) signalKill(c *container.Container) error { return s.signal(c, syscall.SIGKILL) }

// settle gives a container that is just being started a moment to get its state.
func settle(ctx context.Context, c *container.Container) error {
	for pause := time.Millisecond; c.Alive && c.State == nil && pause < time.Second; pause *= 2 {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := c.Refresh(); err != nil {
			return err
		}
	}
	return nil
}

// killMonitor kills a container by way of its monitor: where that is all that is
// known of it, since its run directory was removed.
func killMonitor(c *container.Container) error {
	pid, start, err := c.Monitor()
	if err != nil {
		return err
	}
	// First what it started, which may have seen to it that it outlives its parent.
	for _, child := range sys.Children(pid) {
		if began, err := sys.ProcessStart(child); err == nil && began >= start {
			_ = sys.SignalProcess(child, began, syscall.SIGKILL) // it may have ended
		}
	}
	if err := sys.SignalProcess(pid, start, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("kill the monitor of container %s: %w", c.Name(), err)
	}
	return nil
}
