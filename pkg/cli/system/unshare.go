package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewUnshare makes "unshare".
func NewUnshare(e *engine.Engine, s ui.Streams) *cobra.Command {
	var network bool
	cmd := &cobra.Command{
		Use:               "unshare [OPTIONS] [COMMAND [ARG...]]",
		Short:             "Run a command as root of your user namespace",
		Long:              "Run a command, by default a shell, in the user namespace of your containers, where you are root\nand own their files: to look at them, to change their owner, to remove them. Root has no such namespace, and\nsimply runs the command.",
		Example:           "  cais unshare chown -R 0:0 ./data\n  cais unshare cat /proc/self/uid_map",
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			if network {
				return ui.Later("unshare --rootless-netns", "'cais run --rm -it --network NAME IMAGE' is in a network of containers.")
			}
			if len(args) == 0 {
				args = []string{shell(e.Getenv)}
			}
			path, err := exec.LookPath(args[0])
			if err != nil {
				code := 126
				if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
					code = 127
				}
				if e, ok := errors.AsType[*exec.Error](err); ok {
					err = e.Err
				}
				if e, ok := errors.AsType[*fs.PathError](err); ok {
					err = e.Err
				}
				return ui.Exit(code, fmt.Errorf("unshare: exec %q: %w", args[0], err))
			}
			// Ctrl-C is for the command: this process only waits for it.
			code, err := e.RunInUserNS(context.WithoutCancel(cmd.Context()), path, args)
			if err != nil {
				return err
			}
			if code != 0 {
				return &ui.ExitError{Code: code}
			}
			return nil
		},
	}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().BoolVar(&network, "rootless-netns", false, "Enter the containers' network too")
	return cmd
}

func shell(getenv func(string) string) string {
	if sh := getenv("SHELL"); sh != "" {
		return sh
	}
	return "/bin/sh"
}
