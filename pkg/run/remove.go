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
	"cais.dev/cais/pkg/sys"
)

// RemoveOptions say what to remove.
type RemoveOptions struct {
	Force   bool           // kill it first
	Volumes bool           // its anonymous volumes too
	Timeout *time.Duration // with Force: stop it with this time to end, instead of killing it
}

// Remove removes a container. When it returns, its name is free.
func (s *Service) Remove(ctx context.Context, ref string, o RemoveOptions) error {
	id, err := s.store.Find(ref)
	if err != nil {
		return err
	}
	if o.Force && o.Timeout != nil {
		if err := s.Stop(ctx, id, StopOptions{Timeout: o.Timeout}); err != nil {
			return err
		}
	}
	for {
		done, err := s.tryRemove(ctx, id, ref, o)
		if done || err != nil {
			return err
		}
	}
}

// tryRemove removes the container if it does not run; with force it kills it
// and reports that it is not done yet, since whoever waits for the monitor's end
// must not hold the container's lock.
func (s *Service) tryRemove(ctx context.Context, id, ref string, o RemoveOptions) (done bool, err error) {
	l, err := s.store.Lock(ctx, id)
	if err != nil {
		return false, err
	}
	defer l.Release()
	c, err := s.store.Load(id)
	if err != nil && !o.Force {
		return false, err
	}
	if err != nil { // damaged files: removing them is the cure
		c = &container.Container{ID: id, Dir: s.store.Dir(id), Record: &container.Record{ID: id}, Settings: &container.Settings{}}
	}
	if !c.Alive {
		return true, s.removeLocked(ctx, c, o.Volumes || c.Record.AutoRemove())
	}
	if !o.Force {
		return false, running(c, ref)
	}
	if err := s.dismiss(ctx, c); err != nil && !full(err) {
		return false, err
	}
	s.tell(c, "kill", "signal", "9")
	if err := s.killAll(ctx, c); err != nil {
		return false, err
	}
	if err := l.Release(); err != nil {
		return false, err
	}
	return false, s.waitDead(ctx, id)
}

func running(c *container.Container, ref string) error {
	return errs.New(errs.Conflict, fmt.Sprintf("container %s is %s: stop it first or use -f", ref, c.Status()))
}

// removeLocked removes what does not run. The caller holds its lock. Removing
// the record is the moment it ceases to be a container: what remains after a
// kill -9 is collected by the next command that writes.
func (s *Service) removeLocked(ctx context.Context, c *container.Container, volumes bool) error {
	s.leftovers(ctx, c)
	if volumes {
		if err := s.removeVolumes(ctx, c.Record); err != nil {
			return fmt.Errorf("remove a volume: %w", err)
		}
	}
	// What it wrote goes first: on a full disk nothing else can be written before,
	// and to release the image a file is replaced.
	if err := s.removeTree(ctx, filepath.Join(s.store.Dir(c.ID), "upper")); err != nil {
		return err
	}
	// Still full, perhaps of somebody else's data: then the rest goes, and the note
	// in the store is taken back last, or by the next command that writes.
	note := s.o.Images.Unprotect(ctx, c.ID)
	if note != nil && !full(note) {
		return fmt.Errorf("release the image: %w", note)
	}
	if err := s.store.Forget(c.ID); err != nil {
		return err
	}
	s.tell(c, "destroy")
	err := errors.Join(s.releaseNames(c), s.discard(ctx, c.ID))
	if note != nil {
		if note := s.o.Images.Unprotect(ctx, c.ID); note != nil {
			s.log.Warn("the image stays in use until there is room on the disk", "image", c.Record.ImageRef, "error", note)
		}
	}
	if err == nil && c.Record.Request.RemoveImage {
		err = s.o.Images.RemoveUnused(ctx, c.Record.ImageRef)
	}
	return err
}

// full reports whether there was no room on the disk.
func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// Dependents returns the ids of the containers that share namespaces of the one
// that ref means, and of those that share theirs.
func (s *Service) Dependents(ctx context.Context, ref string) ([]string, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return nil, err
	}
	all, err := s.List(ctx)
	if err != nil {
		return nil, err
	}
	ids := []string{c.ID}
	for i := 0; i < len(ids); i++ {
		for _, other := range all {
			for _, id := range others(other.Record.Request) {
				if id == ids[i] && !slices.Contains(ids, other.ID) {
					ids = append(ids, other.ID)
				}
			}
		}
	}
	return ids[1:], nil
}

func (s *Service) releaseNames(c *container.Container) error {
	if c.Settings.Name != "" {
		return s.store.ReleaseName(c.Settings.Name, c.ID)
	}
	return s.releaseAll(c.ID) // its settings are lost: look at every name
}

func (s *Service) releaseAll(id string) error {
	names, err := s.store.Names(0)
	for name, owner := range names {
		if owner == id {
			err = errors.Join(err, s.store.ReleaseName(name, id))
		}
	}
	return err
}

// discard removes the container's directory, record or not.
func (s *Service) discard(ctx context.Context, id string) error {
	dir := s.store.Dir(id)
	s.openWork(id)
	for _, tree := range []string{"upper", "work", "volume.tmp"} {
		if err := s.removeTree(ctx, filepath.Join(dir, tree)); err != nil {
			return err
		}
	}
	return s.store.Discard(id)
}

// openWork makes what the kernel keeps in the overlay's work directory removable.
// It makes these in mode 0, but as root of the user's namespace: they are ours,
// and this spares a process there. The container cannot reach them.
func (s *Service) openWork(id string) {
	if !s.needU() {
		return
	}
	work := filepath.Join(s.store.Dir(id), "work")
	for _, d := range []string{"work", "work/incompat", "work/incompat/volatile"} {
		_ = os.Chmod(filepath.Join(work, d), 0o700) // none is there, or the removal will tell
	}
}

// removeTree removes a tree in which files may belong to mapped ids. Trying as
// the user first spares most containers, which wrote nothing or little, a
// process in the user's namespace.
func (s *Service) removeTree(ctx context.Context, dir string) error {
	err := sys.RemoveTree(dir)
	if err == nil || !errors.Is(err, fs.ErrPermission) || !s.needU() {
		return err
	}
	return s.inU(ctx, helperRemove, dir)
}
