package container

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run"
)

// remover is what rm needs of a service.
type remover interface {
	lister
	Remove(ctx context.Context, ref string, o run.RemoveOptions) error
	Dependents(ctx context.Context, ref string) ([]string, error)
}

type rmOptions struct {
	selection
	args           []string
	force, volumes bool
	link, depend   bool
	time           int
	timed          bool
}

// NewRm makes "rm", "container rm".
func NewRm(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o rmOptions
	cmd := &cobra.Command{
		Use:               "rm [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Remove containers",
		Args:              o.selection.args,
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.link {
				return ui.Later("rm --link", "'cais network disconnect' takes a container out of a network.")
			}
			o.args, o.timed = args, cmd.Flags().Changed("time")
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			return rm(cmd.Context(), s, svc, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.force, "force", "f", false, "Kill running ones first")
	f.BoolVarP(&o.volumes, "volumes", "v", false, "Remove their anonymous volumes too")
	f.BoolVarP(&o.link, "link", "l", false, "Remove a link only")
	f.BoolVar(&o.depend, "depend", false, "Remove those that share their namespaces, too")
	f.IntVarP(&o.time, "time", "t", 0, "With --force, give them this many `seconds` to end")
	o.selection.flags(f, "aLifc")
	return cmd
}

// rm prints each name once it is free.
func rm(ctx context.Context, s ui.Streams, svc remover, o rmOptions) error {
	refs, err := o.refs(ctx, svc, o.args, func() func(*container.Container) bool {
		if o.force {
			return every
		}
		return stopped
	}())
	if err != nil {
		return err
	}
	if o.depend {
		for _, ref := range slices.Clone(refs) {
			more, err := svc.Dependents(ctx, ref)
			if o.forgiven(err) != nil {
				return err
			}
			refs = append(refs, slices.DeleteFunc(more, func(id string) bool { return slices.Contains(refs, id) })...)
		}
	}
	ro := run.RemoveOptions{Force: o.force, Volumes: o.volumes}
	if o.timed {
		t := time.Duration(o.time) * time.Second
		ro.Timeout, ro.Force = &t, true
	}
	return each(ctx, s.Out, refs, func(ctx context.Context, ref string) (bool, error) {
		err := svc.Remove(ctx, ref, ro)
		show := err == nil
		if ro.Force && errs.KindOf(err) == errs.NotFound {
			err = nil // -f: there is no such container, as wanted
		}
		return show, o.forgiven(err)
	})
}
