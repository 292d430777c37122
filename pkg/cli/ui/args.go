package ui

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/errs"
)

// UseLine is a command's synopsis.
func UseLine(cmd *cobra.Command) string {
	if cmd.HasParent() {
		path := cmd.Parent().CommandPath() + " "
		return path + strings.ReplaceAll(cmd.Use, "\n\t", "\n\t"+path) // cp has two lines
	}
	return cmd.Use
}

func argsError(cmd *cobra.Command, format string, a ...any) error {
	return &UsageError{
		Command: cmd.CommandPath(),
		Usage:   UseLine(cmd),
		Code:    CodeFailure,
		Err:     fmt.Errorf("'%s' "+format, append([]any{cmd.CommandPath()}, a...)...),
	}
}

func arguments(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return fmt.Sprintf("%d arguments", n)
}

// NoArgs is for commands without arguments.
func NoArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return argsError(cmd, "accepts no arguments")
	}
	return nil
}

// ExactArgs is for commands with exactly n arguments.
func ExactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != n {
			return argsError(cmd, "requires %s", arguments(n))
		}
		return nil
	}
}

// MinArgs is for commands with at least n arguments.
func MinArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < n {
			return argsError(cmd, "requires at least %s", arguments(n))
		}
		return nil
	}
}

// MaxArgs is for commands with at most n arguments.
func MaxArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) > n {
			return argsError(cmd, "requires at most %s", arguments(n))
		}
		return nil
	}
}

// RangeArgs is for commands with between low and high arguments.
func RangeArgs(low, high int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < low || len(args) > high {
			return argsError(cmd, "requires at least %d and at most %s", low, arguments(high))
		}
		return nil
	}
}

// UnknownCommand is the error for the name of no command below parent, a
// command's path. known are the names that there are.
func UnknownCommand(parent, name string, known []string) error {
	return &UsageError{
		Command: parent,
		Code:    CodeFailure,
		Err:     meant(errors.New("unknown command: "+parent+" "+name), name, known, ""),
	}
}

// FlagError is the error for a flag that cmd does not know, or for its value.
func FlagError(cmd *cobra.Command, err error) error {
	if e, ok := errors.AsType[*pflag.NotExistError](err); ok && e.GetSpecifiedShortnames() == "" {
		var known []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if !f.Hidden {
				known = append(known, f.Name)
			}
		})
		err = meant(err, e.GetSpecifiedName(), known, "--")
	}
	return &UsageError{Command: cmd.CommandPath(), Code: CodeUsage, Err: err}
}

// meant gives err the hint which of the known names may have been meant by name.
func meant(err error, name string, known []string, dashes string) error {
	near, least := "", 1+min(2, len(name)/3) // so many letters may be wrong
	for _, k := range known {
		if d := distance(name, k); d < least {
			near, least = k, d
		}
	}
	if near == "" {
		return err
	}
	return errs.WithHint(err, "Did you mean "+dashes+near+"?")
}

// distance is how many letters are to be changed, added, left out or swapped with
// their neighbour to make b of a.
func distance(a, b string) int {
	var before []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, row[j+1]+1, next[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}

// Later is the error of something that Docker or Podman has and cais does not
// have yet: it is named, never accepted and ignored. instead is what to do until then.
func Later(what, instead string) error {
	return errs.WithHint(errs.New(errs.Unsupported, what+" is not in this version of cais yet"), instead)
}
