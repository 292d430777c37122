package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// Wait waits until the container does not run and returns its exit code. It
// needs no monitor's help: a shared lock on alive is granted when the monitor's
// is gone.
func (s *Service) Wait(ctx context.Context, ref string) (int, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return 0, err
	}
	if c.Status() == container.Created && !c.Alive && c.Exit == nil {
		return 0, nil // Docker's answer for one that never ran
	}
	if c.Alive {
		word := s.lastWord(ctx, c)
		if err := s.waitDead(ctx, c.ID); err != nil {
			return 0, err
		}
		if c, err = s.store.Load(c.ID); err != nil {
			return word(err)
		}
	}
	e := c.LastExit()
	if e == nil {
		return 0, nil
	}
	return e.Code, nil
}

// lastWord listens to the monitor of a --rm container, whose files may be gone
// before we have read them. What it returns gives the exit code, or err if the
// monitor did not say.
func (s *Service) lastWord(ctx context.Context, c *container.Container) func(err error) (int, error) {
	silent := func(err error) (int, error) { return 0, err }
	if !c.Record.AutoRemove() {
		return silent
	}
	ses, err := session.Attach(ctx, c.Dir, wire.Attach{})
	if err != nil { // its end came first
		return silent
	}
	return func(err error) (int, error) {
		defer ses.Close()
		exit, failed := ses.Stream(ctx, session.Streams{})
		if failed != nil {
			return 0, err
		}
		return exit.Code, nil
	}
}

// waitExit waits for the end of a container that was killed.
func (s *Service) waitExit(ctx context.Context, c *container.Container) error {
	if c.Settings.Restart.Name != "" && c.Settings.Restart.Name != "no" {
		return nil // its monitor may go on
	}
	return s.waitDead(ctx, c.ID)
}

// waitDead waits until the monitor of id is gone.
func (s *Service) waitDead(ctx context.Context, id string) error {
	f, err := os.OpenFile(filepath.Join(s.store.Dir(id), "alive"), os.O_RDONLY|syscall.O_CLOEXEC, 0)
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
