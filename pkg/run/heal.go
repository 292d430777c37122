package run

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// Heal puts right what killed processes left: containers without a monitor get
// their exit record, and their restart policy its say; half made and half
// removed ones go, with their names, run directories and notes in the store.
// Every command that makes, starts, names or removes something calls it; it costs a
// look at each container, which those that change what one does are spared. What
// cannot be put right now is logged and left for the next one.
func (s *Service) Heal(ctx context.Context) {
	if err := s.heal(ctx); err != nil && ctx.Err() == nil {
		s.log.Warn("some leftovers stay", "error", err)
	}
}

func (s *Service) heal(ctx context.Context) error {
	ids, err := s.store.IDs()
	if err != nil {
		return err
	}
	known := make(map[string]bool, len(ids))
	var all []error
	for _, id := range ids {
		known[id] = true
		if alive, err := s.store.Alive(id); err == nil && alive { // its monitor sees to it: there may be hundreds
			continue
		}
		if err := s.healOne(ctx, id); err != nil {
			all = append(all, err)
		}
		if _, err := os.Lstat(s.store.Dir(id)); err != nil { // it was left over
			delete(known, id)
		}
	}
	all = append(all, s.store.RemoveGone(), s.healNames(known), s.healRunDirs(known), s.healNotes(ctx, known))
	return errors.Join(all...)
}

// healOne looks without a lock at first: nearly always there is nothing to do.
func (s *Service) healOne(ctx context.Context, id string) error {
	c, err := s.store.Load(id)
	missing := errs.KindOf(err) == errs.NotFound
	if err != nil && !missing {
		return nil // damaged or too new: not ours to judge
	}
	if !missing && !s.needsHealing(c) {
		return nil
	}
	l, err := s.store.TryLock(id)
	if errors.Is(err, lock.ErrHeld) || errors.Is(err, fs.ErrNotExist) {
		return nil // somebody is at work on it
	}
	if err != nil {
		return err
	}
	defer l.Release()
	return s.healLocked(ctx, id)
}

// healLocked is healOne for who holds the container's lock.
func (s *Service) healLocked(ctx context.Context, id string) error {
	c, err := s.store.Load(id)
	if errs.KindOf(err) == errs.NotFound {
		return errors.Join(s.releaseAll(id), s.o.Images.Unprotect(ctx, id), s.discard(ctx, id))
	}
	if err != nil || !s.needsHealing(c) {
		return err
	}
	return s.finish(ctx, c)
}

// needsHealing reports whether the container's last run left something undone.
func (s *Service) needsHealing(c *container.Container) bool {
	if c.Alive {
		return false
	}
	if c.Lost() {
		return true
	}
	return c.Record.AutoRemove() && !c.Settings.Keep && (c.Record.Ephemeral || c.Exit != nil)
}

// finish ends what a monitor could not, and starts the container again if its
// restart policy says so. The caller holds the container's lock and has seen that
// its monitor is gone.
func (s *Service) finish(ctx context.Context, c *container.Container) error {
	lost := c.Lost()
	if err := s.bury(ctx, c); err != nil || !lost || !s.wanted(c, c.Exit) {
		return err
	}
	st, err := s.startAgain(ctx, c)
	if err != nil {
		return err
	}
	return st.Session.Close()
}

// bury is finish without another start: the exit record, the processes that are
// left, and the container itself if it is a --rm one.
func (s *Service) bury(ctx context.Context, c *container.Container) error {
	if c.Record.AutoRemove() && !c.Settings.Keep {
		return s.removeLocked(ctx, c, true)
	}
	if !c.Lost() {
		return nil
	}
	s.leftovers(ctx, c)
	e := c.LastExit()
	if e.FinishedAt.IsZero() {
		e.FinishedAt = time.Now().UTC()
	}
	if err := s.store.WriteExit(c.ID, e, true); err != nil {
		return err
	}
	c.Exit = e
	return nil
}

// wanted reports whether the restart policy wants the container back.
func (s *Service) wanted(c *container.Container, e *container.Exit) bool {
	switch c.Settings.Restart.Name {
	case "always":
		return true
	case "unless-stopped":
		return !c.Settings.StoppedByUser
	case "on-failure":
		return !c.Settings.StoppedByUser && e.Code != 0 && (c.Settings.Restart.Max == 0 || e.Restarts < c.Settings.Restart.Max)
	}
	return false
}

func (s *Service) startAgain(ctx context.Context, c *container.Container) (*Started, error) {
	spec, err := s.spec(c.ID)
	if err != nil {
		return nil, err
	}
	return s.start(ctx, c.Record, c.Settings, spec, StartOptions{})
}

// healNames gives up names whose container is gone, and all but the right one of
// a container that has several: whoever renamed it was killed. Either makes more
// names than containers, unless one is being made this moment: the next look sees.
func (s *Service) healNames(known map[string]bool) error {
	names, err := s.store.Names(len(known))
	count := make(map[string]int, len(names))
	for _, id := range names {
		count[id]++
	}
	for name, id := range names {
		if known[id] {
			if count[id] > 1 {
				err = errors.Join(err, s.healName(id, name))
			}
			continue
		}
		if _, e := os.Lstat(s.store.Dir(id)); errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, s.store.ReleaseName(name, id))
		}
	}
	return err
}

// healName gives up a name that is not the container's, unless somebody is at
// work on that.
func (s *Service) healName(id, name string) error {
	l, err := s.store.TryLock(id)
	if err != nil {
		return nil //nolint:nilerr // it is held, or gone
	}
	defer l.Release()
	c, err := s.store.Load(id)
	if err != nil || c.Settings.Name == "" || c.Settings.Name == name {
		return nil //nolint:nilerr // not ours to judge
	}
	return s.store.ReleaseName(name, id)
}

// healRunDirs removes run directories whose container is gone.
func (s *Service) healRunDirs(known map[string]bool) error {
	dir := s.store.RunDirs()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		id := e.Name()
		if known[id] {
			continue
		}
		if _, gone := os.Lstat(s.store.Dir(id)); container.IsID(id) && errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, os.RemoveAll(filepath.Join(dir, id)))
		}
	}
	return err
}

// healNotes takes back notes in the store for containers that are gone.
func (s *Service) healNotes(ctx context.Context, known map[string]bool) error {
	ids, err := s.o.Images.Protected(ctx)
	for _, id := range ids {
		if known[id] {
			continue
		}
		if _, gone := os.Lstat(s.store.Dir(id)); errors.Is(gone, fs.ErrNotExist) {
			err = errors.Join(err, s.o.Images.Unprotect(ctx, id))
		}
	}
	return err
}

// cleanup does what is left to do for an ended container whose command is gone.
// It is idempotent.
func (s *Service) cleanup(ctx context.Context, id string) error {
	if !container.IsID(id) {
		return errs.New(errs.Invalid, "no container id: "+id)
	}
	if err := s.waitDead(ctx, id); err != nil {
		return err
	}
	l, err := s.store.Lock(ctx, id) // the command that started it may not have gone yet
	if err != nil {
		return gone(err)
	}
	defer l.Release()
	return s.healLocked(ctx, id)
}
