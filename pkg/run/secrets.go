package run

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/secret"
)

// secretsDir is where a container's copies of its secrets are, for its owner alone.
const secretsDir = "secrets"

func (s *Service) secretStore() secret.Store { return secret.In(s.store.Root) }

// findSecrets returns what the secrets are that a container asks for, in their order.
func (s *Service) findSecrets(req plan.Request) (data [][]byte, err error) {
	for _, r := range req.Secrets {
		sec, err := s.secretStore().Find(r.Name)
		if err != nil {
			return nil, err
		}
		data = append(data, sec.Data)
	}
	return data, nil
}

// copySecrets keeps for a new container what it will find as files: it has them also
// when the secrets are gone.
func (s *Service) copySecrets(ctx context.Context, rec *container.Record, data [][]byte) error {
	dir := filepath.Join(s.store.Dir(rec.ID), secretsDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for i, r := range rec.Request.Secrets {
		if r.Env {
			continue
		}
		file := filepath.Join(dir, strconv.Itoa(i))
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(data[i])
		if err = errors.Join(err, f.Chmod(os.FileMode(r.Mode)), f.Close()); err != nil {
			return err
		}
		u, g := uint32(r.UID), uint32(r.GID)
		if ids := rec.IDs; ids.Own() && !ids.Plain() {
			u, g = outside(ids.UIDs, u), outside(ids.GIDs, g)
		} else if u == 0 && g == 0 {
			continue
		}
		if err := s.inU(ctx, helperOwn, fmt.Sprintf("%d:%d", u, g), file); err != nil {
			err = fmt.Errorf("give the secret %s to %d:%d: %w", r.Name, r.UID, r.GID, err)
			return errs.WithHint(err, "Leave uid and gid out, or give this user subordinate ids: cais doctor says how.")
		}
	}
	return nil
}

// secretFiles are the places of those copies.
func (s *Service) secretFiles(rec *container.Record) []lower.File {
	var files []lower.File
	for i, r := range rec.Request.Secrets {
		if !r.Env {
			source := filepath.Join(s.store.Dir(rec.ID), secretsDir, strconv.Itoa(i))
			files = append(files, lower.File{Source: source, Target: r.Target})
		}
	}
	return files
}

// secretEnv is env with the secrets that the container's processes get as variables.
// They are looked up at each start and never written down.
func (s *Service) secretEnv(env []string, req plan.Request) ([]string, error) {
	for _, r := range req.Secrets {
		if !r.Env {
			continue
		}
		sec, err := s.secretStore().Find(r.Name)
		if err != nil {
			return nil, err
		}
		if bytes.IndexByte(sec.Data, 0) >= 0 {
			return nil, errs.WithHint(errs.New(errs.Invalid, "the secret "+r.Name+" has a NUL byte, which no variable can have"), "Use it with type=mount.")
		}
		env = plan.SetEnv(env, r.Target+"="+string(sec.Data))
	}
	return env, nil
}
