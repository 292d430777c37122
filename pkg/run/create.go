package run

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	"cais.dev/cais/pkg/plainjson"
	"cais.dev/cais/pkg/run/plan"
)

// CreateOptions are what Create makes a container from.
type CreateOptions struct {
	Ref     string // the image as the user typed it
	Image   *Image
	Name    string // empty: a random one
	Replace bool   // remove the container that has the name
	Request plan.Request

	// Ephemeral is a --rm container of `run`, which nobody will start later.
	Ephemeral bool
	Attach    bool // whoever starts it will attach to it at once, for the events
}

// Created is what Create made.
type Created struct {
	ID       string
	Name     string
	Warnings []plan.Warning

	lock     *lock.Lock
	record   *container.Record
	spec     *specs.Spec
	settings *container.Settings
}

// Create makes a container and leaves it not started. If it fails, nothing is
// left.
func (s *Service) Create(ctx context.Context, o CreateOptions) (*Created, error) {
	c, err := s.create(ctx, o)
	if err != nil {
		return nil, err
	}
	if !o.Request.AutoRemove {
		err = s.store.Sync(c.ID)
	}
	return c, errors.Join(err, c.lock.Release())
}

// create returns the container locked.
func (s *Service) create(ctx context.Context, o CreateOptions) (c *Created, err error) {
	if o.Name != "" {
		if err := container.CheckName(o.Name); err != nil {
			return nil, err
		}
	}
	if err := checkCIDFile(o.Request.CIDFile); err != nil {
		return nil, err
	}
	if o.Replace && o.Name != "" {
		err := s.Remove(ctx, o.Name, RemoveOptions{Force: true})
		if err != nil && errs.KindOf(err) != errs.NotFound {
			return nil, err
		}
	}
	id := container.NewID()
	p, err := s.decide(ctx, id, o)
	if err != nil {
		return nil, err // nothing exists yet
	}
	defer func() { _ = p.release() }() // it is only locked
	free := func() {}
	if len(p.record.Volumes) > 0 { // until the record says that they are in use
		l, err := s.vols.Lock(ctx, false)
		if err != nil {
			return nil, err
		}
		free = func() { _ = l.Release() } // it is only locked
	}
	defer func() { free() }()

	var u undo
	defer func() { u.on(ctx, &err) }()

	l, err := s.store.Create(ctx, id)
	if err != nil {
		return nil, err
	}
	u.add(func(ctx context.Context) error { return errors.Join(s.discard(ctx, id), l.Release()) })

	if err := s.fill(ctx, p); err != nil {
		return nil, err
	}
	name, err := s.claim(o.Name, id)
	if err != nil {
		return nil, err
	}
	u.add(func(context.Context) error { return s.store.ReleaseName(name, id) })

	err = s.o.Images.Protect(ctx, Protection{
		ID: id, Name: name, ImageID: o.Image.ID, ImageRef: o.Image.Ref,
		Created: p.record.Created, Volatile: o.Request.AutoRemove,
	})
	if err != nil {
		return nil, fmt.Errorf("protect the image: %w", err)
	}
	u.add(func(ctx context.Context) error { return s.o.Images.Unprotect(ctx, id) })

	settings := &container.Settings{Name: name, Restart: o.Request.Restart, Networks: p.networks}
	if err := s.store.WriteSettings(id, settings, false); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil { // Ctrl-C so far: nothing is left
		return nil, context.Cause(ctx)
	}
	if err := writeCIDFile(p.record.Request.CIDFile, id); err != nil {
		return nil, err
	}
	u.add(func(context.Context) error { return removeCIDFile(p.record.Request.CIDFile) })
	// From here on it is a container: what comes before is collected if we are killed.
	if err := s.store.WriteRecord(p.record, false); err != nil {
		return nil, err
	}
	u.add(func(ctx context.Context) error { return s.store.Forget(id) })
	u.add(func(ctx context.Context) error {
		free()
		return s.removeVolumes(ctx, p.record)
	})
	if err := s.fillVolumes(ctx, p.record); err != nil {
		return nil, err
	}
	if err := s.chownMounts(ctx, p); err != nil {
		return nil, err
	}
	s.note(s.created(p.record, name, o.Attach)...)
	return &Created{ID: id, Name: name, Warnings: p.warnings, lock: l, record: p.record, spec: p.spec, settings: settings}, nil
}

// claim takes the name, or finds a free one.
func (s *Service) claim(name, id string) (string, error) {
	if name != "" {
		return name, s.store.ClaimName(name, id)
	}
	for try := 0; ; try++ {
		name := container.RandomName(try)
		err := s.store.ClaimName(name, id)
		if _, taken := errors.AsType[*container.NameTakenError](err); !taken || try == 1000 {
			return name, err
		}
	}
}

// fill puts everything but the record into the container's directory.
func (s *Service) fill(ctx context.Context, p *decided) error {
	id, dir := p.record.ID, s.store.Dir(p.record.ID)
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "work"), 0o700), s.fillUpper(ctx, p)); err != nil {
		return err
	}
	if err := writeEtc(dir, p.files); err != nil {
		return err
	}
	if len(p.secrets) > 0 {
		if err := s.copySecrets(ctx, p.record, p.secrets); err != nil {
			return err
		}
	}
	text, err := plainjson.Marshal(p.spec)
	if err != nil {
		return err
	}
	if err := s.store.WriteSpec(id, text, false); err != nil {
		return err
	}
	return bindSources(p.record.Request.Mounts, true)
}

// fillUpper makes the upper layer. The container's own passwd and group are files in
// it, which programs like usermod can replace; where they cannot be, they are mounted.
func (s *Service) fillUpper(ctx context.Context, p *decided) error {
	dir := s.store.Dir(p.record.ID)
	upper := filepath.Join(dir, "upper")
	made := []string{upper}
	if err := p.upperDir(upper, p.rootMode); err != nil { // the overlay's root shows the upper one's mode
		return err
	}
	if len(p.users) > 0 && p.etcMode != 0 && !p.record.Request.ReadOnly {
		dir = filepath.Join(upper, "etc")
		if err := p.upperDir(dir, p.etcMode); err != nil {
			return err
		}
		made = append(made, dir)
	}
	if err := writeEtc(dir, p.users); err != nil {
		return err
	}
	for name := range p.users {
		made = append(made, filepath.Join(dir, name))
	}
	return s.own(ctx, p.record.IDs, 0, 0, made...)
}

// upperDir makes a directory that has the owner of the image's root.
func (d *decided) upperDir(dir string, mode fs.FileMode) error {
	if err := makeDir(dir, mode); err != nil {
		return err
	}
	if d.rootUID != os.Geteuid() && os.Geteuid() == 0 && !d.record.IDs.Own() {
		return os.Chown(dir, d.rootUID, d.rootGID)
	}
	return nil
}

// bindSources looks for the sources of bind mounts. A missing one is made as a
// directory if the flag says so (and make does), and is an error otherwise.
func bindSources(mounts []plan.Mount, make bool) error {
	for _, m := range mounts {
		if m.Type != "bind" {
			continue
		}
		_, err := os.Stat(m.Source)
		switch {
		case err == nil || errors.Is(err, fs.ErrPermission): // U may reach what we may not
		case !errors.Is(err, fs.ErrNotExist):
			return fmt.Errorf("look at the mount's source: %w", err)
		case !m.CreateSrc:
			err := errs.New(errs.Invalid, `invalid mount config for type "bind": bind source path does not exist: `+m.Source)
			return errs.WithHint(err, "Make it, or give --mount the option bind-create-src.")
		case make:
			if err := os.MkdirAll(m.Source, 0o755); err != nil {
				return errs.WithHint(fmt.Errorf("make the mount's source: %w", err), "The directory of a -v that does not exist is made: give one that exists, or one you may make.")
			}
		}
	}
	return nil
}

func checkCIDFile(path string) error {
	if path == "" {
		return nil
	}
	if _, err := os.Lstat(path); err == nil {
		return errs.New(errs.Conflict, "container ID file found, make sure the other container isn't running or delete "+path)
	}
	return nil
}

func writeCIDFile(path, id string) error {
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return checkCIDFile(path)
	}
	if err != nil {
		return fmt.Errorf("write the container ID file: %w", err)
	}
	_, err = f.WriteString(id)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

func removeCIDFile(path string) error {
	if path == "" {
		return nil
	}
	return os.Remove(path)
}
