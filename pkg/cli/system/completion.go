package system

import (
	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewCompletion makes "completion".
func NewCompletion(e *engine.Engine, s ui.Streams) *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	var plain bool
	cmd := &cobra.Command{
		Use:               "completion SHELL",
		Short:             "Print a shell's completion script (bash, zsh, fish, powershell)",
		Long:              "Print the script that completes commands, flags, and the names of containers and images.",
		Example:           "  source <(cais completion bash)\n  cais completion zsh >\"${fpath[1]}/_cais\"\n  cais completion fish >~/.config/fish/completions/cais.fish",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Words(shells...),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(s.Out, !plain)
			case "zsh":
				if plain {
					return root.GenZshCompletionNoDesc(s.Out)
				}
				return root.GenZshCompletion(s.Out)
			case "fish":
				return root.GenFishCompletion(s.Out, !plain)
			case "powershell":
				if plain {
					return root.GenPowerShellCompletion(s.Out)
				}
				return root.GenPowerShellCompletionWithDesc(s.Out)
			}
			return ui.UnknownCommand(cmd.CommandPath(), args[0])
		},
	}
	cmd.Flags().BoolVar(&plain, "no-descriptions", false, "Offer names only")
	return cmd
}
