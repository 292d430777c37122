// Package secret keeps what containers may know and nobody else should read: one
// file for each secret, <root>/secrets/<id>.json, for its owner alone. Secrets are
// made and removed under one lock, <root>/secrets/lock; readers need none, for a
// file appears and vanishes whole.
package secret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// Version is written into each file. A higher one is refused.
const Version = 1

// MaxSize is how many bytes a secret may have, as in Podman and in Docker's swarms.
const MaxSize = 512_000

// Secret is one.
type Secret struct {
	Version int               `json:"v"`
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
	Updated time.Time         `json:"updated"`
	Data    []byte            `json:"data"`
}

// Store is where one user's secrets are.
type Store struct{ Root string }

// In returns the secrets of the store at root.
func In(root string) Store { return Store{Root: filepath.Join(root, "secrets")} }

// Check refuses what no secret can be.
func Check(sec *Secret) error {
	switch {
	case sec.Name == "" || len(sec.Name) > 253 || strings.ContainsAny(sec.Name, "=/,\x00"):
		return errs.New(errs.Invalid, fmt.Sprintf(`secret name %q can not include '=', '/', ',', or NUL, and must be between 1 and 253 characters`, sec.Name))
	case len(sec.Data) == 0 || len(sec.Data) >= MaxSize:
		return errs.New(errs.Invalid, fmt.Sprintf("the secret %s has %d bytes: it must be larger than 0 and less than %d bytes", sec.Name, len(sec.Data), MaxSize))
	}
	return nil
}

func notFound(ref string) error { return errs.New(errs.NotFound, "no such secret: "+ref) }

// Create keeps sec, whose ID is new. With replace, one of the same name gets its data
// and labels; with ignore, one that is there stays as it is, and is sec then.
func (s Store) Create(ctx context.Context, sec *Secret, replace, ignore bool) error {
	if err := Check(sec); err != nil {
		return err
	}
	return s.locked(ctx, func() error {
		all, err := s.List()
		if err != nil {
			return err
		}
		old := slices.IndexFunc(all, func(have *Secret) bool { return have.Name == sec.Name })
		switch {
		case old >= 0 && ignore:
			*sec = *all[old]
			return nil
		case old >= 0 && !replace:
			return errs.WithHint(errs.New(errs.Conflict, "secret name "+sec.Name+" is in use"), "Remove it, or use --replace.")
		}
		if old >= 0 {
			sec.ID, sec.Created = all[old].ID, all[old].Created
		}
		sec.Version = Version
		text, err := json.Marshal(sec)
		if err != nil {
			return err
		}
		return atomicfile.WriteLocked(s.file(sec.ID), text, 0o600, true)
	})
}

func (s Store) file(id string) string { return filepath.Join(s.Root, id+".json") }

func (s Store) locked(ctx context.Context, do func() error) error {
	if err := os.MkdirAll(s.Root, 0o700); err != nil {
		return err
	}
	l, err := lock.Acquire(ctx, filepath.Join(s.Root, "lock"), true)
	if err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(s.Root, ".*.new")) // by one that was killed as it wrote
	for _, f := range left {
		err = errors.Join(err, os.Remove(f))
	}
	if err == nil {
		err = do()
	}
	return errors.Join(err, l.Release())
}

// List returns all, oldest first.
func (s Store) List() ([]*Secret, error) {
	files, err := filepath.Glob(filepath.Join(s.Root, "[^.]*.json"))
	if err != nil {
		return nil, err
	}
	var all []*Secret
	for _, f := range files {
		sec, err := read(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, sec)
	}
	slices.SortFunc(all, func(a, b *Secret) int { return a.Created.Compare(b.Created) })
	return all, nil
}

func read(file string) (*Secret, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var sec Secret
	if err := json.Unmarshal(text, &sec); err != nil {
		return nil, fmt.Errorf("read the secret %s: %w", file, err)
	}
	if sec.Version > Version {
		return nil, errs.WithHint(errs.New(errs.Unsupported, "the secret "+sec.Name+" was made by a newer cais"), "Use that one.")
	}
	return &sec, nil
}

// Find returns the secret with that name or id, or whose id begins so.
func (s Store) Find(ref string) (*Secret, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	var found *Secret
	for _, sec := range all {
		switch {
		case sec.Name == ref || sec.ID == ref:
			return sec, nil
		case ref == "" || !strings.HasPrefix(sec.ID, ref):
		case found != nil:
			return nil, errs.New(errs.Conflict, fmt.Sprintf("more than one result secret with prefix %s", ref))
		default:
			found = sec
		}
	}
	if found == nil {
		return nil, notFound(ref)
	}
	return found, nil
}

// Remove removes the secret. Containers that were made with it keep their copy.
func (s Store) Remove(ctx context.Context, ref string) (id string, err error) {
	err = s.locked(ctx, func() error {
		sec, err := s.Find(ref)
		if err != nil {
			return err
		}
		id = sec.ID
		return os.Remove(s.file(id))
	})
	return id, err
}
