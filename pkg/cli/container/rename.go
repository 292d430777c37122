package container

import (
	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewRename makes "rename", "container rename".
func NewRename(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "rename CONTAINER NEW_NAME",
		Short:             "Give a container another name",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.Containers(e, 1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			return svc.Rename(cmd.Context(), args[0], args[1])
		},
	}
}
