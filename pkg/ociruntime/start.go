package ociruntime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// Start lets the program of a created container run, and returns once it does.
func (r *Runtime) Start(ctx context.Context, id string) error {
	c, l, err := r.open(ctx, id)
	if err != nil {
		return err
	}
	defer l.Release()
	if status := c.Status(); status != specs.StateCreated {
		return errs.New(errs.Conflict, fmt.Sprintf("cannot start container %q: it is %s", id, status))
	}
	spec, err := c.spec()
	if err != nil {
		return err
	}
	if spec.Process == nil || len(spec.Process.Args) == 0 {
		return noProcess(id)
	}
	if err := c.startHooks(ctx, spec); err != nil {
		return errors.Join(err, c.end(context.WithoutCancel(ctx)))
	}
	if err := c.release(); err != nil {
		return err
	}
	return c.started(ctx, spec)
}

// release tells the waiting process to go on, and waits until its program runs.
func (c *Container) release() error {
	path := filepath.Join(c.dir, "exec.fifo")
	fd, err := syscall.Open(path, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, syscall.ENXIO) {
			err = errors.New("its process has ended")
		}
		return errs.E(fmt.Sprintf("start container %q", c.rec.ID), errs.Conflict, err)
	}
	defer syscall.Close(fd)
	if _, err := syscall.Write(fd, []byte{1}); err != nil {
		return fmt.Errorf("start container %q: %w", c.rec.ID, err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	return sys.WaitHangup(fd) // the process holds the reading end until its execve
}

// startHooks runs what comes before the program, in its namespaces.
func (c *Container) startHooks(ctx context.Context, spec *specs.Spec) error {
	if spec.Hooks == nil || len(spec.Hooks.StartContainer) == 0 {
		return nil
	}
	fd, err := sys.OpenProcess(c.rec.PID, c.rec.PIDStart)
	if err != nil {
		return err
	}
	defer fd.Close()
	return runInside(ctx, "startContainer", spec.Hooks.StartContainer, spec, int(fd.Fd()), c.state(specs.StateCreated, spec))
}

// started runs what comes behind the start. A hook that fails ends the container,
// as crun and runc have it.
func (c *Container) started(ctx context.Context, spec *specs.Spec) error {
	if spec.Hooks == nil {
		return nil
	}
	err := runHooks(ctx, "poststart", spec.Hooks.Poststart, c.state(specs.StateRunning, spec))
	if err != nil {
		if kill := c.signal(syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
			err = errors.Join(err, kill)
		}
	}
	return err
}
