package run

import (
	"context"
	"path/filepath"

	"cais.dev/cais/pkg/errs"
)

// Restart stops a container, if it runs, and starts it. One made with --rm stays.
func (s *Service) Restart(ctx context.Context, ref string, o StopOptions) error {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return err
	}
	if c.Record.AutoRemove() {
		if err := s.keep(ctx, c.ID); err != nil {
			return err
		}
	}
	if err := s.Stop(ctx, c.ID, o); err != nil {
		return err
	}
	st, err := s.Start(ctx, c.ID, StartOptions{})
	if err != nil {
		return err
	}
	if st.Session == nil {
		return errs.New(errs.Unavailable, "container "+ref+" was started by somebody else meanwhile")
	}
	s.tell(c, "restart")
	return st.Session.Close()
}

// revive takes the mark off a --rm container's layer that it was mounted without
// regard for power cuts: the kernel mounts such a one once only.
func (s *Service) revive(ctx context.Context, id string) error {
	s.openWork(id)
	return s.removeTree(ctx, filepath.Join(s.store.Dir(id), "work", "work"))
}

// keep holds a --rm container's removal back until it is started next.
func (s *Service) keep(ctx context.Context, id string) error {
	c, l, err := s.store.Take(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	if !c.Alive {
		return nil
	}
	c.Settings.Keep = true
	return s.store.WriteSettings(id, c.Settings, true)
}
