package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/errs"
)

// never marks commands that need Docker's swarm or its plugins: they will not
// come.
const never = "never"

// later is a command that Docker has and cais does not have yet: it says what
// it would be and fails, whatever its flags are.
func later(n node) *cobra.Command {
	return &cobra.Command{
		Use:                n.name + " [ARG...]",
		Aliases:            n.aliases,
		Short:              n.later,
		Hidden:             true,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return laterError(cmd, n)
		},
	}
}

func laterError(cmd *cobra.Command, n node) error {
	path := cmd.CommandPath()
	if n.later == never {
		return errs.E("", errs.Unsupported, errors.New(`"docker `+strings.TrimPrefix(path, cmd.Root().Name()+" ")+`" is not supported by cais`))
	}
	err := errs.E("", errs.Unsupported, ui.Later(path+" ("+n.later+")"))
	if n.instead != "" {
		return errs.WithHint(err, n.instead)
	}
	return err
}
