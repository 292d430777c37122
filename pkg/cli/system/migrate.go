package system

import (
	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewMigrate makes "system migrate", which toolbox runs first whenever the version
// is another: records and monitors of an older cais work as they are.
func NewMigrate(*engine.Engine, ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "migrate",
		Short: "Make containers of an older version work, as they do already",
		Args:  ui.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return nil },
	}
}
