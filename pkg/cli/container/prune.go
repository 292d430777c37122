package container

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/units"
)

// NewPrune makes "container prune".
func NewPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var filters []string
	var force bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all stopped containers",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := pruneFilters(e.PruneFilters(filters))
			if err != nil {
				return err
			}
			if !force {
				ok, err := ui.Confirm(cmd.Context(), s, "WARNING! This will remove all stopped containers.")
				if err != nil || !ok {
					return err
				}
			}
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			gone, bytes, err := prune(cmd.Context(), svc, f)
			err = errors.Join(err, svc.PruneMapped(cmd.Context()))
			if len(gone) > 0 {
				fmt.Fprintln(s.Out, "Deleted Containers:")
				for _, id := range gone {
					fmt.Fprintln(s.Out, id)
				}
				fmt.Fprintln(s.Out)
			}
			fmt.Fprintln(s.Out, "Total reclaimed space: "+units.Size(bytes))
			return err
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&filters, "filter", nil, "Remove only what matches `KEY=VALUE`: until, label, label!")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	return cmd
}

// pruneFilters reads --filter of prune, which knows fewer keys than that of ps.
func pruneFilters(args []string) (*filters, error) {
	f, err := parseFilters(args)
	if err != nil {
		return nil, err
	}
	for k := range f.values {
		if !slices.Contains([]string{"until", "label", "label!"}, k) {
			return nil, fmt.Errorf("invalid filter '%s'", k)
		}
	}
	if len(f.values["until"]) > 1 {
		return nil, errors.New("more than one until filter specified")
	}
	return f, nil
}

// Prune removes the stopped containers that match filters, in the language of
// --filter. It returns their ids and the bytes that they took.
func Prune(ctx context.Context, svc *run.Service, args []string) (ids []string, bytes int64, err error) {
	f, err := pruneFilters(args)
	if err != nil {
		return nil, 0, err
	}
	ids, bytes, err = prune(ctx, svc, f)
	return ids, bytes, errors.Join(err, svc.PruneMapped(ctx))
}

func prune(ctx context.Context, svc remover, f *filters) (ids []string, bytes int64, err error) {
	all, err := svc.List(ctx)
	if err != nil {
		return nil, 0, err
	}
	var failed []error
	for _, c := range all {
		if c.Alive || !f.match(ctx, c) {
			continue
		}
		size, err := run.TreeSize(ctx, filepath.Join(c.Dir, "upper"))
		if err != nil {
			return ids, bytes, err
		}
		err = svc.Remove(ctx, c.ID, run.RemoveOptions{})
		switch errs.KindOf(err) {
		case errs.NotFound, errs.Conflict:
			continue // somebody has removed it, or started it
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		ids, bytes = append(ids, c.ID), bytes+size
	}
	return ids, bytes, errors.Join(failed...)
}
