package system

import (
	"io"
	"strings"

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
		Example:           "  source <(cais completion bash)\n  complete -o default -F __start_cais docker # for bash, after alias docker=cais\n  cais completion zsh >\"${fpath[1]}/_cais\"\n  cais completion fish >~/.config/fish/completions/cais.fish",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Words(shells...),
		RunE: func(cmd *cobra.Command, args []string) error {
			root := cmd.Root()
			switch args[0] {
			case "bash":
				if err := root.GenBashCompletionV2(s.Out, !plain); err != nil {
					return err
				}
				_, err := io.WriteString(s.Out, strings.ReplaceAll(bashWords, "NAME", root.Name()))
				return err
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
			return ui.UnknownCommand(cmd.CommandPath(), args[0], shells)
		},
	}
	cmd.Flags().BoolVar(&plain, "no-descriptions", false, "Offer names only")
	return cmd
}

// bashWords replaces a function of cobra's script that needs the package
// bash-completion, which a small system does not have: it puts together again
// what bash takes apart at = and :.
const bashWords = `
__NAME_init_completion()
{
    COMPREPLY=()
    if declare -F _get_comp_words_by_ref >/dev/null 2>&1; then
        _get_comp_words_by_ref "$@" cur prev words cword
        return
    fi
    local i word rest before line=${COMP_LINE:0:COMP_POINT}
    words=()
    for ((i = 0; i <= COMP_CWORD; i++)); do
        rest=${line#"${line%%[![:space:]]*}"}
        before=${#line}
        word=${COMP_WORDS[i]}
        ((i == COMP_CWORD)) && word=$rest
        if ((i > 0 && ${#rest} == before)) && [[ ${COMP_WORDS[i]} == [=:]* || ${COMP_WORDS[i-1]} == *[=:] ]]; then
            words[${#words[@]}-1]+=$word
        else
            words+=("$word")
        fi
        line=${rest#"$word"}
    done
    cword=$((${#words[@]} - 1))
    cur=${words[cword]}
    prev=
    ((cword > 0)) && prev=${words[cword-1]}
    return 0
}
`
