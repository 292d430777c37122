package container

import (
	"context"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
)

// restarter is what restart needs of a service.
type restarter interface {
	lister
	Restart(ctx context.Context, ref string, o run.StopOptions) error
}

type restartOptions struct {
	stopOptions
	running bool
}

// NewRestart makes "restart", "container restart".
func NewRestart(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o restartOptions
	cmd := &cobra.Command{
		Use:   "restart [OPTIONS] CONTAINER [CONTAINER...]",
		Short: "Stop containers and start them again",
		Args: func(cmd *cobra.Command, args []string) error {
			if o.running {
				return nil
			}
			return o.selection.args(cmd, args)
		},
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.read(cmd, args)
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			return restart(cmd.Context(), s, svc, o)
		},
	}
	cmd.Flags().BoolVar(&o.running, "running", false, "All containers that run")
	o.flags(cmd.Flags(), "alfc")
	return cmd
}

// restart prints each name once its container runs again, in the order given.
func restart(ctx context.Context, s ui.Streams, svc restarter, o restartOptions) error {
	want := every
	if o.running {
		o.all, want = true, alive
	}
	refs, err := o.refs(ctx, svc, o.args, want)
	if err != nil {
		return err
	}
	so := o.request()
	return each(ctx, s.Out, refs, func(ctx context.Context, ref string) (bool, error) {
		err := svc.Restart(ctx, ref, so)
		return err == nil, o.forgiven(err)
	})
}
