package run

import (
	"context"
	"path/filepath"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// Finish returns when a --rm container that has ended is gone: it removes the
// container if its monitor left that to us (ours), else waits until whoever
// does it has done it. made is what Run returned, if this process started it.
func (s *Service) Finish(ctx context.Context, id string, made *Created, ours bool) error {
	if !ours {
		l, err := lock.Acquire(ctx, filepath.Join(s.store.Dir(id), "alive"), true)
		if err == nil {
			err = l.Release()
		}
		if err := gone(missing(err)); err != nil {
			return err
		}
	}
	l, err := s.store.Lock(ctx, id)
	if err != nil {
		return gone(err)
	}
	defer l.Release()
	var c *container.Container
	if made != nil {
		c, err = s.store.Reload(made.record)
	} else {
		c, err = s.store.Load(id)
	}
	if err != nil {
		return gone(err)
	}
	if c.Alive && !ours || c.Settings.Keep {
		return nil // somebody has started it again, or is about to
	}
	return s.removeLocked(ctx, c, true)
}

func missing(err error) error {
	if err != nil && isMissing(err) {
		return errs.New(errs.NotFound, "gone")
	}
	return err
}
