package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// waiter is what wait needs of a service.
type waiter interface {
	lister
	Wait(ctx context.Context, ref string) (int, error)
	WaitFor(ctx context.Context, ref string, states []string, interval time.Duration) (int, error)
}

// NewWait makes "wait", "container wait".
func NewWait(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o selection
	var conditions []string
	var interval string
	cmd := &cobra.Command{
		Use:               "wait [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Wait until containers end and print their exit codes",
		Args:              o.args,
		ValidArgsFunction: complete.Containers(e, -1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			pause, err := time.ParseDuration(interval)
			if n, bad := strconv.Atoi(interval); bad == nil { // as podman has it
				pause, err = time.Duration(n)*time.Millisecond, nil
			}
			if err != nil || pause <= 0 {
				return ui.FlagError(cmd, fmt.Errorf("invalid --interval %q: give milliseconds, or 1s", interval))
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			refs, err := o.refs(cmd.Context(), svc, args, alive)
			if err != nil {
				return err
			}
			return wait(cmd.Context(), s, svc, o, refs, conditions, pause)
		},
	}
	f := cmd.Flags()
	o.flags(f, "l")
	f.BoolVar(&o.ignore, "ignore", false, "Do not fail because a container does not exist")
	f.StringSliceVar(&conditions, "condition", nil, "Wait for one of these states: created, running, paused, stopped, exited, healthy, unhealthy")
	f.StringVarP(&interval, "interval", "i", "50ms", "With --condition, look so often")
	return cmd
}

func wait(ctx context.Context, s ui.Streams, svc waiter, o selection, refs, states []string, interval time.Duration) error {
	var failed []error
	for _, ref := range refs {
		var code int
		var err error
		if len(states) == 0 {
			code, err = svc.Wait(ctx, ref)
		} else {
			code, err = svc.WaitFor(ctx, ref, states, interval)
		}
		if err != nil {
			failed = append(failed, o.forgiven(err))
			continue
		}
		fmt.Fprintln(s.Out, code)
	}
	return errors.Join(failed...)
}

// NewExists makes "container exists", which answers with its exit code.
func NewExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("CONTAINER", complete.Containers(e, 1, nil), func(ctx context.Context, ref string) error {
		svc, err := e.Containers()
		if err == nil {
			_, err = svc.Find(ctx, ref)
		}
		return err
	})
}
