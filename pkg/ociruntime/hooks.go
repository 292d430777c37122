package ociruntime

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/lower"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/sys"
)

// runHooks runs hooks here, in the runtime's namespaces, one after the other. The
// first that fails ends it.
func runHooks(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		hookCtx, cancel := timeout(ctx, h)
		cmd := exec.CommandContext(hookCtx, h.Path)
		cmd.Args = append([]string{}, h.Args...)
		if len(cmd.Args) == 0 {
			cmd.Args = []string{h.Path}
		}
		cmd.Env, cmd.Dir = h.Env, state.Bundle // no environment of its own: ours
		cmd.Stdin = bytes.NewReader(text)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		late := hookCtx.Err() != nil && ctx.Err() == nil
		cancel()
		if late {
			err = fmt.Errorf("it ran longer than %d s", *h.Timeout)
		}
		if err != nil && !errors.Is(err, exec.ErrWaitDelay) && !errors.Is(err, syscall.EPIPE) {
			return hookError(kind, h, err, out.Bytes())
		}
	}
	return nil
}

func hookError(kind string, h specs.Hook, err error, out []byte) error {
	said := bytes.TrimSpace(out)
	if len(said) > 1000 {
		said = said[:1000]
	}
	if len(said) > 0 {
		err = fmt.Errorf("%w: %s", err, said)
	}
	return errs.E(fmt.Sprintf("run the %s hook %s", kind, h.Path), errs.Internal, err)
}

func timeout(ctx context.Context, h specs.Hook) (context.Context, context.CancelFunc) {
	if h.Timeout == nil {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Duration(*h.Timeout)*time.Second)
}

// runLenient runs all hooks, also after one that failed: poststop's, whose
// container is gone.
func (c *Container) runLenient(ctx context.Context, kind string, hooks []specs.Hook, state *specs.State) {
	for _, h := range hooks {
		if err := runHooks(ctx, kind, []specs.Hook{h}, state); err != nil {
			c.r.Warn(err.Error())
		}
	}
}

// runInside runs hooks in the container's namespaces.
func runInside(ctx context.Context, kind string, hooks []specs.Hook, spec *specs.Spec, pidfd int, state *specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		env := h.Env
		if env == nil {
			env = os.Environ()
		}
		plan, err := lower.Hook(spec, h, env)
		if err != nil {
			return err
		}
		if err := inside(ctx, h, plan, pidfd, text); err != nil {
			return hookError(kind, h, err, nil)
		}
	}
	return nil
}

func inside(ctx context.Context, h specs.Hook, plan *wire.Plan, pidfd int, state []byte) error {
	in, err := sys.Memfd("state", state)
	if err != nil {
		return err
	}
	defer in.Close()
	if _, err := in.Seek(0, 0); err != nil {
		return err
	}
	runtime.LockOSThread() // the hook dies with this thread
	defer runtime.UnlockOSThread()
	slots := noSlots()
	slots[wire.SlotInit], slots[wire.SlotStdin] = pidfd, int(in.Fd())
	slots[wire.SlotStderr] = 2
	p, err := launch.Start(plan, &slots)
	if err != nil {
		return err
	}
	defer p.Close()
	ctx, cancel := timeout(ctx, h)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = syscall.Kill(p.PID, syscall.SIGKILL) }) // our own child, not yet reaped
	defer stop()
	status, err := reap(p.PID)
	switch {
	case err != nil:
		return err
	case ctx.Err() != nil:
		return fmt.Errorf("it was ended: %w", ctx.Err())
	case status.Signaled():
		return fmt.Errorf("signal: %s", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("exit status %d", status.ExitStatus())
	}
	return nil
}

func reap(pid int) (syscall.WaitStatus, error) {
	for {
		var ws syscall.WaitStatus
		_, err := syscall.Wait4(pid, &ws, 0, nil)
		if err == syscall.EINTR { //nolint:errorlint // a system call's own errno
			continue
		}
		return ws, os.NewSyscallError("wait4", err)
	}
}

func noSlots() [wire.NumSlots]int {
	var slots [wire.NumSlots]int
	for i := range slots {
		slots[i] = -1
	}
	return slots
}
