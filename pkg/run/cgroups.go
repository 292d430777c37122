package run

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/run/plan"
)

// cgroupFile in the run directory says where the container's cgroups are: a
// reboot takes both.
const cgroupFile = "cgroup.json"

func (s *Service) cgroupPath(parent, id string) (string, error) {
	h, err := s.cgroups()
	if err != nil {
		return "", err
	}
	return h.Path(parent, id)
}

// makeCgroups makes the container's cgroups for one run.
func (s *Service) makeCgroups(ctx context.Context, rec *container.Record, spec *specs.Spec) (cgroup.Dirs, []plan.Warning, error) {
	if rec.Cgroup == "" {
		return cgroup.Dirs{}, nil, nil
	}
	h, err := s.cgroups()
	if err != nil {
		return cgroup.Dirs{}, nil, err
	}
	dirs, warnings, err := cgroup.Create(ctx, h, cgroup.Options{ID: rec.ID, Path: rec.Cgroup, Resources: spec.Linux.Resources})
	if err != nil || len(dirs.Remove) == 0 {
		return dirs, warnings, err
	}
	text, err := json.Marshal(dirs)
	if err == nil {
		err = atomicfile.Write(filepath.Join(s.store.Dir(rec.ID), "run", cgroupFile), text, 0o600, false)
	}
	if err != nil {
		err = errors.Join(err, cgroup.Remove(ctx, dirs.Remove))
	}
	return dirs, warnings, err
}

// dirs returns the cgroups of the container's present or last run.
func (s *Service) dirs(c *container.Container) cgroup.Dirs {
	var d cgroup.Dirs
	text, err := os.ReadFile(filepath.Join(c.Dir, "run", cgroupFile))
	if errors.Is(err, fs.ErrNotExist) {
		return d
	}
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		s.log.Warn("where a container's cgroups are is not known", "container", c.ID, "error", err)
	}
	return d
}

// leftovers kills what a killed monitor left running and removes the
// container's cgroups. Failing is no reason to keep a container.
func (s *Service) leftovers(c *container.Container) {
	if err := s.signalKill(c); err != nil {
		s.log.Warn("a left-over process stays", "container", c.ID, "error", err)
	}
	dirs := s.dirs(c).Remove
	if len(dirs) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second) //nolint:forbidigo // a caller that gave up leaves it to us all the same
	defer cancel()
	if err := errors.Join(cgroup.KillAll(dirs), cgroup.Remove(ctx, dirs)); err != nil {
		s.log.Warn("a cgroup stays", "container", c.ID, "error", err)
	}
}
