package run

import (
	"context"
	"errors"
	"slices"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
)

// atBoot says that a container is to run again after a reboot: it ran, and its
// policy wants it.
func atBoot(c *container.Container) bool {
	if c.Record.AutoRemove() || c.Settings == nil || c.LastExit() == nil && c.State == nil {
		return false
	}
	switch c.Settings.Restart.Name {
	case "always":
		return true
	case "unless-stopped":
		return !c.Settings.StoppedByUser
	}
	return false
}

// WantsBoot returns how many containers are to come back after a reboot.
func (s *Service) WantsBoot(ctx context.Context) (int, error) {
	all, err := s.List(ctx)
	n := 0
	for _, c := range all {
		if c.Settings != nil && slices.Contains([]string{"always", "unless-stopped"}, c.Settings.Restart.Name) {
			n++
		}
	}
	return n, err
}

// BootStart starts what is to come back after a reboot, and returns the names. One
// that cannot be started does not keep the others from it.
func (s *Service) BootStart(ctx context.Context) (names []string, err error) {
	all, err := s.List(ctx)
	failed := []error{err}
	for _, c := range all {
		if c.Alive || !atBoot(c) {
			continue
		}
		st, err := s.Start(ctx, c.ID, StartOptions{})
		if err == nil && st.Session != nil {
			err = st.Session.Close()
		}
		if err != nil {
			failed = append(failed, errs.E("start container "+c.Name(), errs.KindOf(err), err))
			continue
		}
		names = append(names, c.Name())
	}
	return names, errors.Join(failed...)
}

// BootStop stops what BootStart will start again: as the user would, but without
// counting as his wish.
func (s *Service) BootStop(ctx context.Context) error {
	all, err := s.List(ctx)
	failed := []error{err}
	results := make(chan error)
	started := 0
	for _, c := range all {
		if !c.Alive || !atBoot(c) {
			continue
		}
		started++
		go func() { results <- s.bootStop(ctx, c.ID) }() // each may take its whole time-out
	}
	for range started {
		failed = append(failed, <-results)
	}
	return errors.Join(failed...)
}

func (s *Service) bootStop(ctx context.Context, id string) error {
	if err := s.Stop(ctx, id, StopOptions{}); err != nil {
		return err
	}
	c, l, err := s.store.Take(ctx, id)
	if err != nil {
		return gone(err)
	}
	defer l.Release()
	c.Settings.StoppedByUser = false
	return s.store.WriteSettings(id, c.Settings, true)
}
