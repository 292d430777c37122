package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"

	"cais.dev/cais/pkg/cgroup"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/probe"
)

// control is the cgroup of a build's commands. All of them share it.
type control struct {
	path  string
	procs []string
}

// cgroup returns the cgroup of the build's commands, "" if they need none: a user's
// limits nothing without being asked, and root's keeps them from devices.
func (b *build) cgroup() (path string, procs []string, err error) {
	c, err := b.control()
	if err != nil || c == nil {
		return "", nil, err
	}
	return c.path, c.procs, nil
}

func (b *build) makeCgroup(ctx context.Context) (*control, error) {
	host, err := b.host()
	if err != nil {
		return nil, err
	}
	if host.InUserNS && reflect.ValueOf(b.req.Resources).IsZero() {
		return nil, nil
	}
	h, err := cgroup.Detect()
	if err != nil {
		return nil, err
	}
	s, err := b.scratch()
	if err != nil {
		return nil, err
	}
	name := "build-" + s.ID
	if b.req.CgroupParent != "" { // there the name stays as it is, and what is not named as ours is never removed
		name = "cais-" + name
	}
	path, err := h.Path(b.req.CgroupParent, name)
	if err != nil {
		return nil, err
	}
	if path == "" {
		if !reflect.ValueOf(b.req.Resources).IsZero() {
			b.s.o.Log.Warn("the limits do not apply: no cgroup can be made here")
		}
		return nil, nil
	}
	// The resources and device rules of any command, as they are all alike.
	r := plan.Request{Args: []string{"/"}, Network: "host", Resources: b.req.Resources, Devices: b.req.Devices}
	in := plan.Inputs{ID: s.ID + s.ID, Rootfs: "/", CgroupPath: path}
	if err := probe.Devices(r, &in); err != nil {
		return nil, err
	}
	spec, warnings, err := plan.Spec(r, oci.Config{}, host, in)
	if err != nil {
		return nil, err
	}
	// Whoever finds this build killed finds what to remove.
	dir, err := s.Scratch("cgroup")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "path"), []byte(path), 0o600); err != nil { //nolint:forbidigo // of this build alone
		return nil, err
	}
	dirs, more, err := cgroup.Create(ctx, h, cgroup.Options{ID: s.ID, Path: path, Resources: spec.Linux.Resources})
	for _, w := range append(warnings, more...) {
		b.s.o.Log.Warn(w.Text)
	}
	if err != nil {
		return nil, err
	}
	b.later(func() {
		ctx := context.WithoutCancel(ctx)
		if err := errors.Join(cgroup.KillAll(dirs.Remove), cgroup.Remove(ctx, dirs.Remove)); err != nil {
			b.s.o.Log.Warn("the build's cgroup stays", "error", err)
		}
	})
	return &control{path, dirs.Procs}, nil
}

// leftCgroup removes the cgroup that a killed build left.
func leftCgroup(ctx context.Context, dir string) {
	path, err := os.ReadFile(filepath.Join(dir, "cgroup", "path"))
	if err != nil {
		return
	}
	h, err := cgroup.Detect()
	if err != nil {
		return
	}
	dirs := h.Find(string(path)).Remove
	_ = cgroup.KillAll(dirs) // what cannot be removed is tried again by whoever comes next
	_ = cgroup.Remove(ctx, dirs)
}
