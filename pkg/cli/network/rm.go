package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// NewRm makes "network rm".
func NewRm(e *engine.Engine, s ui.Streams) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm NETWORK [NETWORK...]",
		Short:             "Remove one or more networks",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Networks(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			service, err := e.Connections()
			if err != nil {
				return err
			}
			var failed []error
			for _, ref := range args {
				n, err := service.Remove(cmd.Context(), ref)
				switch {
				case err == nil:
					tell(e, "destroy", n)
					fmt.Fprintln(s.Out, ref)
				case !force || errs.KindOf(err) != errs.NotFound:
					failed = append(failed, err)
				}
			}
			return errors.Join(failed...)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not fail if there is no such network")
	cmd.Flags().IntP("time", "t", 0, "Accepted: no container is stopped")
	_ = cmd.Flags().MarkHidden("time")
	return cmd
}

// NewPrune makes "network prune".
func NewPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var force bool
	var filter []string
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove all networks that no running container uses",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f, err := parseFilters(filter, "label", "label!", "until")
			if err != nil {
				return err
			}
			if !force {
				yes, err := ui.Confirm(cmd.Context(), s, "WARNING! This will remove all custom networks not used by at least one container.")
				if err != nil || !yes {
					return err
				}
			}
			gone, err := Prune(cmd.Context(), e, f)
			if len(gone) > 0 {
				fmt.Fprintln(s.Out, "Deleted Networks:")
				for _, name := range gone {
					fmt.Fprintln(s.Out, name)
				}
				fmt.Fprintln(s.Out)
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	cmd.Flags().StringArrayVar(&filter, "filter", nil, "Remove only what matches `KEY=VALUE`: label, until")
	return cmd
}

// PruneAll is Prune with filters as typed, for `system prune`.
func PruneAll(ctx context.Context, e *engine.Engine, filter []string) ([]string, error) {
	f, err := parseFilters(filter, "label", "label!", "until")
	if err != nil {
		return nil, err
	}
	return Prune(ctx, e, f)
}

// Prune removes the networks that no running container is in, as Docker does, and
// returns their names.
func Prune(ctx context.Context, e *engine.Engine, f filters) ([]string, error) {
	store, err := e.Networks()
	if err != nil {
		return nil, err
	}
	service, err := e.Connections()
	if err != nil {
		return nil, err
	}
	all, bad := store.List()
	if all, err = f.choose(ctx, e, all); err != nil {
		return nil, err
	}
	var gone []string
	for _, n := range all {
		if n.Builtin() {
			continue
		}
		if _, err := service.Remove(ctx, n.ID); err != nil {
			if errs.KindOf(err) != errs.NotFound && errs.KindOf(err) != errs.Denied { // gone, or in use since
				bad = errors.Join(bad, err)
			}
			continue
		}
		tell(e, "destroy", n)
		gone = append(gone, n.Name)
	}
	return gone, bad
}
