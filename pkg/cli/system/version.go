// Package system holds the commands about cais and this machine.
package system

import (
	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewVersion makes "version".
func NewVersion(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{Use: "version [OPTIONS]", Short: "Show version information", Args: ui.NoArgs,
		RunE: func(*cobra.Command, []string) error { return VersionLine(s.Out, e) }}
}
