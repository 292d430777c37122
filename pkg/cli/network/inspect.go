package network

import (
	"context"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewInspect makes "network inspect".
func NewInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] NETWORK [NETWORK...]",
		Short:             "Show what is known of one or more networks",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Networks(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) {
				return Inspect(cmd.Context(), e, ref)
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	cmd.Flags().BoolP("verbose", "v", false, "Accepted: there is no more to show")
	return cmd
}

// NewExists makes "network exists".
func NewExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("NETWORK", complete.Networks(e, 1), func(_ context.Context, ref string) error {
		store, err := e.Networks()
		if err == nil {
			_, err = store.Find(ref)
		}
		return err
	})
}
