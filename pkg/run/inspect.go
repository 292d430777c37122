package run

import (
	"context"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/network"
)

// Inspect gathers what inspect shows of a container.
func (s *Service) Inspect(ctx context.Context, ref string) (docker.ContainerFacts, error) {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return docker.ContainerFacts{}, err
	}
	c = s.back(ctx, c)
	spec, err := s.spec(c.ID)
	if err != nil {
		return docker.ContainerFacts{}, err
	}
	f := docker.ContainerFacts{
		Container: c, Hostname: spec.Hostname, Env: spec.Process.Env, Driver: "overlay", VolumeDir: s.store.VolumeDir,
		Masked: spec.Linux.MaskedPaths, ReadOnly: spec.Linux.ReadonlyPaths,
	}
	if c.Alive {
		f.Sandbox = network.ReadSandbox(c.Dir)
	}
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.CgroupNamespace && n.Path == "" {
			f.CgroupPrivate = true
		}
	}
	return f, nil
}
