package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/errs"
)

// never marks commands that need Docker's swarm or its plugins: they will not
// come.
const never = "never"

// What to do instead of several commands.
const (
	noSwarm    = "cais works on one machine: 'cais run --restart always' keeps a container running, 'cais secret' has its secrets."
	noRemote   = "Run cais on the other machine: 'ssh HOST cais ...'."
	noFreezing = "'cais pause' freezes a container in memory."
	noMounting = "'cais cp' copies files of a container that does not run, too; 'cais image mount' shows an image's."
	noBake     = "'cais build' each of them: steps that they share are done once."
	noSocket   = "'podman system service' serves the same images to clients of Docker's socket."
	noTrust    = "Edit /etc/containers/policy.json or ~/.config/containers/policy.json, see containers-policy.json(5)."
)

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
		err := errs.New(errs.Unsupported, `"docker `+strings.TrimPrefix(path, cmd.Root().Name()+" ")+`" is not supported by cais`)
		return errs.WithHint(err, n.instead)
	}
	return ui.Later(path+" ("+n.later+")", n.instead)
}
