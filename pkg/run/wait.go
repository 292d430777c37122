package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cais.dev/cais/pkg/container"
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
	before := c
	if c.Alive {
		if err := waitAlive(ctx, filepath.Join(c.Dir, "alive")); err != nil {
			return 0, err
		}
		if c, err = s.store.Load(c.ID); err != nil {
			return lastWord(before, err)
		}
	}
	e := c.LastExit()
	if e == nil {
		return 0, nil
	}
	return e.Code, nil
}

// lastWord is the exit code of a container that --rm took away while we waited,
// through the directory that we knew.
func lastWord(_ *container.Container, err error) (int, error) { return 0, err }

// waitExit waits for the end of a container that was killed.
func (s *Service) waitExit(ctx context.Context, c *container.Container) error {
	if c.Settings.Restart.Name != "" && c.Settings.Restart.Name != "no" {
		return nil // its monitor may go on
	}
	return waitAlive(ctx, filepath.Join(c.Dir, "alive"))
}

// waitAlive returns when nobody holds path exclusively.
func waitAlive(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
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
