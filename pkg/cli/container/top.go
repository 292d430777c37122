package container

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run/procs"
)

// NewTop makes "top", "container top".
func NewTop(e *engine.Engine, s ui.Streams) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "top CONTAINER [ps OPTIONS]",
		Short:             "Show the processes of a container",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Containers(e, 1, running),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := procs.Show(nil, args[1:], time.Now()); err != nil {
				return err
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			pids, err := svc.Processes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			t, err := procs.Show(pids, args[1:], time.Now())
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(s.Out, 20, 1, 3, ' ', 0)
			fmt.Fprintln(w, strings.Join(t.Titles, "\t"))
			for _, row := range t.Rows {
				fmt.Fprintln(w, strings.Join(row, "\t"))
			}
			return w.Flush()
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}
