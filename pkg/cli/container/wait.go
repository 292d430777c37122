package container

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// waiter is what wait needs of a service.
type waiter interface {
	lister
	Wait(ctx context.Context, ref string) (int, error)
}

// NewWait makes "wait", "container wait".
func NewWait(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o selection
	cmd := &cobra.Command{
		Use:               "wait [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Wait until containers end and print their exit codes",
		Args:              o.args,
		ValidArgsFunction: complete.Containers(e, -1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			refs, err := o.refs(cmd.Context(), svc, args, alive)
			if err != nil {
				return err
			}
			return wait(cmd.Context(), s, svc, o, refs)
		},
	}
	o.flags(cmd.Flags(), "li")
	return cmd
}

func wait(ctx context.Context, s ui.Streams, svc waiter, o selection, refs []string) error {
	var failed []error
	for _, ref := range refs {
		code, err := svc.Wait(ctx, ref)
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
