package ui

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// UseLine is a command's synopsis.
func UseLine(cmd *cobra.Command) string {
	if cmd.HasParent() {
		return cmd.Parent().CommandPath() + " " + cmd.Use
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

// UnknownCommand is the error for the name of no command below parent, a
// command's path.
func UnknownCommand(parent, name string) error {
	return &UsageError{
		Command: parent,
		Code:    CodeFailure,
		Err:     errors.New("unknown command: " + parent + " " + name),
	}
}

// FlagError is the error for a flag that cmd does not know, or for its value.
func FlagError(cmd *cobra.Command, err error) error {
	return &UsageError{Command: cmd.CommandPath(), Code: CodeUsage, Err: err}
}

// Later is the error of something that Docker or Podman has and cais does not
// have yet: it is named, never accepted and ignored.
func Later(what string) error {
	return fmt.Errorf("%s is not in this version of cais yet", what)
}

// Lower makes a sentence's first letter lower case, for errors made from texts
// that were written to stand alone.
func Lower(s string) string {
	if s == "" {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// RangeArgs is the error of commands with between low and high arguments.
func RangeArgs(cmd *cobra.Command, low, high int) error {
	return argsError(cmd, "requires at least %d and at most %s", low, arguments(high))
}
