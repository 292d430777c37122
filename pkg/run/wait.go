package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// Wait waits until the container's present run ends, whatever the restart policy
// does then, and returns its exit code. One that was made with --rm is gone when
// it returns.
func (s *Service) Wait(ctx context.Context, ref string) (int, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return 0, err
	}
	if c.Status() == container.Created && !c.Alive && c.Exit == nil {
		return 0, nil // Docker's answer for one that never ran
	}
	for pause := time.Millisecond; c.Alive; pause = min(2*pause, 50*time.Millisecond) {
		ses, err := session.Attach(ctx, c.Dir, wire.Attach{})
		if err == nil {
			return s.lastWord(ctx, c, ses)
		}
		select { // it is being started, or waits for its restart, or is about to end
		case <-time.After(pause):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if err := c.Refresh(); err != nil {
			return 0, err
		}
	}
	if err := s.removed(ctx, c); err != nil {
		return 0, err
	}
	e := c.LastExit()
	if e == nil {
		return 0, nil
	}
	return e.Code, nil
}

// WaitFor waits until the container is in one of the states, of health or of life,
// and returns its exit code: -1 if it has none. It looks every interval, for not all
// that decides is told by an event.
func (s *Service) WaitFor(ctx context.Context, ref string, states []string, interval time.Duration) (int, error) {
	want := slices.Clone(states)
	for i, state := range want {
		switch state {
		case "stopped":
			want[i] = string(container.Exited)
		case "created", "running", "paused", "exited", "healthy", "unhealthy":
		default:
			return 0, errs.New(errs.Invalid, fmt.Sprintf("invalid condition %q: give created, running, paused, stopped, exited, healthy or unhealthy", state))
		}
	}
	for {
		c, err := s.Find(ctx, ref)
		if err != nil {
			return 0, err
		}
		ref = c.ID // whatever its name is
		status := c.Status()
		h := c.Health()
		if slices.Contains(want, string(status)) || h != nil && c.Running() && slices.Contains(want, string(h.Status)) {
			if e := c.LastExit(); e != nil && status == container.Exited {
				return e.Code, nil
			}
			return -1, nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// lastWord listens to the monitor of a container until its run ends.
func (s *Service) lastWord(ctx context.Context, c *container.Container, ses *session.Session) (int, error) {
	exit, err := ses.Stream(ctx, session.Streams{})
	_ = ses.Close() // only read
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil { // its monitor was killed
		if err := s.waitDead(ctx, c.ID); err != nil {
			return 0, err
		}
		if c, err = s.store.Load(c.ID); err != nil {
			return 0, err
		}
		if e := c.LastExit(); e != nil {
			return e.Code, nil
		}
		return 0, err
	}
	if exit.Restarts {
		return exit.Code, nil
	}
	if err := s.waitDead(ctx, c.ID); err != nil { // it has written its end
		return 0, err
	}
	return exit.Code, s.removed(ctx, c)
}

// moment is how long Docker takes from a program's start to the next command's
// look at it, in round figures.
const moment = 100 * time.Millisecond

// aged waits until a run that has just begun is over or a moment old. What a
// short program writes is there when a script that was written for Docker looks
// for it right after start; here it would often look first.
func (s *Service) aged(ctx context.Context, c *container.Container) error {
	left := moment - time.Since(c.StartedAt())
	if !c.Running() || left <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, min(left, moment), errSettled)
	defer cancel()
	if err := s.waitDead(ctx, c.ID); !errors.Is(err, errSettled) {
		return err
	}
	return nil
}

var errSettled = errors.New("the run is a moment old")

// waitDead waits until the monitor of id is gone.
func (s *Service) waitDead(ctx context.Context, id string) error {
	f, err := os.OpenFile(filepath.Join(s.store.Dir(id), "alive"), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { // flock cannot be cancelled: a caller that gives up leaves the thread waiting until the container ends
		defer f.Close()
		for {
			err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
			if !errors.Is(err, syscall.EINTR) {
				done <- err
				return
			}
		}
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
