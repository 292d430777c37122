package container

import (
	"context"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
)

// stopper is what stop needs of a service.
type stopper interface {
	lister
	Stop(ctx context.Context, ref string, o run.StopOptions) error
}

// stopOptions are what stop and restart take.
type stopOptions struct {
	selection
	args   []string
	signal string
	time   int
	timed  bool // -t was given
}

// flags defines the flags, which of selection's included.
func (o *stopOptions) flags(f *pflag.FlagSet, which string) {
	f.StringVarP(&o.signal, "signal", "s", "", "Send this `signal` first (the container's own, else TERM)")
	f.IntVarP(&o.time, "timeout", "t", 0, "Kill after this many `seconds`; -1 waits for ever (the container's own, else 10)")
	f.IntVar(&o.time, "time", 0, "The same")
	_ = f.MarkHidden("time")
	o.selection.flags(f, which)
}

// read takes what was typed.
func (o *stopOptions) read(cmd *cobra.Command, args []string) {
	o.args, o.timed = args, cmd.Flags().Changed("timeout") || cmd.Flags().Changed("time")
}

func (o *stopOptions) request() run.StopOptions {
	so := run.StopOptions{Signal: o.signal}
	if o.timed {
		t := time.Duration(o.time) * time.Second
		so.Timeout = &t
	}
	return so
}

// NewStop makes "stop", "container stop".
func NewStop(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o stopOptions
	cmd := &cobra.Command{
		Use:               "stop [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Stop running containers",
		Args:              o.selection.args,
		ValidArgsFunction: complete.Containers(e, -1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.read(cmd, args)
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			return stop(cmd.Context(), s, svc, o)
		},
	}
	o.flags(cmd.Flags(), "alifc")
	return cmd
}

// stop prints each name once its container has ended, in the order given.
func stop(ctx context.Context, s ui.Streams, svc stopper, o stopOptions) error {
	refs, err := o.refs(ctx, svc, o.args, alive)
	if err != nil {
		return err
	}
	so := o.request()
	return each(ctx, s.Out, refs, func(ctx context.Context, ref string) (bool, error) {
		err := svc.Stop(ctx, ref, so)
		return err == nil, o.forgiven(err)
	})
}

// killer is what kill needs of a service.
type killer interface {
	lister
	Kill(ctx context.Context, ref, signal string) error
}

// NewKill makes "kill", "container kill".
func NewKill(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o selection
	var signal string
	cmd := &cobra.Command{
		Use:               "kill [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Send a signal to running containers",
		Args:              o.args,
		ValidArgsFunction: complete.Containers(e, -1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			return kill(cmd.Context(), s, svc, o, args, signal)
		},
	}
	cmd.Flags().StringVarP(&signal, "signal", "s", "KILL", "Send this `signal`: a name or a number")
	o.flags(cmd.Flags(), "alc")
	return cmd
}

func kill(ctx context.Context, s ui.Streams, svc killer, o selection, args []string, signal string) error {
	refs, err := o.refs(ctx, svc, args, func(c *container.Container) bool { return c.Running() })
	if err != nil {
		return err
	}
	return each(ctx, s.Out, refs, func(ctx context.Context, ref string) (bool, error) {
		err := svc.Kill(ctx, ref, signal)
		return err == nil, err
	})
}
