package ui

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/errs"
)

// NewExists makes the command "exists" of a group, which says by its exit code
// whether find finds what its argument names: 0, 1 if it fails with NotFound, and
// 125 if nobody can tell.
func NewExists(what string, complete cobra.CompletionFunc, find func(ctx context.Context, ref string) error) *cobra.Command {
	return &cobra.Command{
		Use:               "exists " + what,
		Short:             "Succeed if the " + strings.ToLower(what) + " exists, fail with 1 if it does not",
		Args:              ExactArgs(1),
		ValidArgsFunction: complete,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := find(cmd.Context(), args[0])
			if errs.KindOf(err) == errs.NotFound {
				return &ExitError{Code: CodeFailure}
			}
			return Exit(CodeUsage, err)
		},
	}
}
