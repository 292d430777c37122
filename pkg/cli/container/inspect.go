package container

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
)

// NewInspect makes "container inspect".
func NewInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	var size bool
	var sel selection
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Show what is known of one or more containers",
		Args:              sel.args,
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			if args, err = sel.refs(cmd.Context(), svc, args, every); err != nil {
				return err
			}
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) {
				return Inspect(cmd.Context(), e, ref, size)
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	cmd.Flags().BoolVarP(&size, "size", "s", false, "Show sizes too")
	sel.flags(cmd.Flags(), "l")
	return cmd
}

// Latest is the id of the container made last, as refs; none if there is none.
func Latest(ctx context.Context, e *engine.Engine) ([]string, error) {
	svc, err := e.Containers()
	if err != nil {
		return nil, err
	}
	sel := selection{latest: true}
	return sel.refs(ctx, svc, nil, every)
}

// Inspect returns what is known of the container that ref means.
func Inspect(ctx context.Context, e *engine.Engine, ref string, size bool) (*docker.Container, error) {
	svc, err := e.Containers()
	if err != nil {
		return nil, err
	}
	f, err := svc.Inspect(ctx, ref)
	if err != nil {
		return nil, err
	}
	if size {
		own, err := run.TreeSize(ctx, filepath.Join(f.Container.Dir, "upper"))
		if err != nil {
			return nil, err
		}
		whole := own
		for _, dir := range f.Container.Record.Lower {
			n, err := run.TreeSize(ctx, dir)
			if err != nil {
				return nil, err
			}
			whole += n
		}
		f.SizeRw, f.SizeRootFs = &own, &whole
	}
	f.Driver = e.DriverName(f.Driver)
	return docker.NewContainer(f), nil
}
