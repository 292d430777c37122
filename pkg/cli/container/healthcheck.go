package container

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run/session"
)

// NewHealthcheckRun makes "healthcheck run", as podman has it.
func NewHealthcheckRun(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:   "run CONTAINER",
		Short: "Run a container's health check now",
		Long: "Run the health check of a container that runs, and say by the exit code how it does: 0 healthy,\n" +
			"1 unhealthy, 125 if it cannot be told. It counts as the container's own checks do.",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Containers(e, 1, alive),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			ses, err := svc.Probe(cmd.Context(), args[0])
			if err != nil {
				return ui.Exit(ui.CodeUsage, err)
			}
			defer ses.Close()
			return probe(cmd.Context(), s, ses)
		},
	}
}

// probe waits for the outcome.
func probe(ctx context.Context, s ui.Streams, ses *session.Session) error {
	exit, err := ses.Stream(ctx, session.Streams{})
	if err != nil {
		return ui.Exit(ui.CodeUsage, err)
	}
	if exit.Code != 0 {
		fmt.Fprintln(s.Out, "unhealthy")
		return &ui.ExitError{Code: ui.CodeFailure}
	}
	return nil
}
