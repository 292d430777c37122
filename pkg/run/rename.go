package run

import (
	"context"
	"errors"
	"strings"

	"cais.dev/cais/pkg/errs"
)

// Rename gives a container another name. Whoever is killed here leaves it with
// the old one or the new one; a name too many is given up by the next command
// that writes.
func (s *Service) Rename(ctx context.Context, ref, name string) error {
	name = strings.TrimPrefix(name, "/")
	if ref == "" || name == "" {
		return errs.New(errs.Invalid, "Neither old nor new names may be empty")
	}
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return err
	}
	defer l.Release()
	old := c.Settings.Name
	if name == old {
		return errs.New(errs.Conflict, "renaming a container with the same name as its current name")
	}
	if err := s.store.ClaimName(name, c.ID); err != nil {
		return err
	}
	// The store's note first: it may find that another tool has a container of that name.
	if err := s.o.Images.Rename(ctx, c.ID, name); err != nil {
		return errors.Join(err, s.store.ReleaseName(name, c.ID))
	}
	c.Settings.Name = name
	if err := s.store.WriteSettings(c.ID, c.Settings, true); err != nil {
		return errors.Join(err, s.o.Images.Rename(ctx, c.ID, old), s.store.ReleaseName(name, c.ID))
	}
	if err := s.o.Networks.Renamed(ctx, c, old); err != nil { // it is renamed; names on its networks follow at its next start
		s.log.Warn("the container's networks know it by its old name", "error", err)
	}
	s.tell(c, "rename", "oldName", "/"+old)
	return s.store.ReleaseName(old, c.ID)
}
