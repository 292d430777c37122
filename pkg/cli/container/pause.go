package container

import (
	"context"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
)

// NewPause makes "pause", "container pause".
func NewPause(e *engine.Engine, s ui.Streams) *cobra.Command {
	return simple(e, s, "pause", "Freeze all processes of containers", "alfc", running,
		func(svc *run.Service) func(context.Context, string) error { return svc.Pause })
}

// NewUnpause makes "unpause", "container unpause".
func NewUnpause(e *engine.Engine, s ui.Streams) *cobra.Command {
	return simple(e, s, "unpause", "Let all processes of containers go on", "alfc", paused,
		func(svc *run.Service) func(context.Context, string) error { return svc.Unpause })
}

func running(c *container.Container) bool { return c.Status() == container.Running }

func paused(c *container.Container) bool { return c.Status() == container.Paused }

// simple is a command without flags of its own that does one thing to each
// container and prints its name.
func simple(e *engine.Engine, s ui.Streams, name, short, selectors string, want func(*container.Container) bool,
	do func(*run.Service) func(context.Context, string) error,
) *cobra.Command {
	var o selection
	cmd := &cobra.Command{
		Use:               name + " CONTAINER [CONTAINER...]",
		Short:             short,
		Args:              o.args,
		ValidArgsFunction: complete.Containers(e, -1, want),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			refs, err := o.refs(cmd.Context(), svc, args, want)
			if err != nil {
				return err
			}
			act := do(svc)
			return each(cmd.Context(), s.Out, refs, func(ctx context.Context, ref string) (bool, error) {
				err := act(ctx, ref)
				return err == nil, o.forgiven(err)
			})
		},
	}
	o.flags(cmd.Flags(), selectors)
	return cmd
}
