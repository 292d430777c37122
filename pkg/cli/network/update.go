package network

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewUpdate makes "network update".
func NewUpdate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var add, drop []string
	cmd := &cobra.Command{
		Use:               "update [OPTIONS] NETWORK",
		Short:             "Change the name servers of a network",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Networks(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Connections()
			if err != nil {
				return err
			}
			n, err := svc.Update(cmd.Context(), args[0], add, drop)
			if err == nil {
				tell(e, "update", n)
				fmt.Fprintln(s.Out, n.Name)
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&add, "dns-add", nil, "Add name servers, by `IP`")
	f.StringSliceVar(&drop, "dns-drop", nil, "Take name servers away, by `IP`")
	return cmd
}

// NewReload makes "network reload".
func NewReload(e *engine.Engine, _ ui.Streams) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:               "reload [OPTIONS] [CONTAINER...]",
		Short:             "Make the firewall's rules of all networks anew",
		Long:              "Make the rules of networks anew after a firewall was loaded again, as root. They are the networks', so whose container is named does not matter.",
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return ui.FlagError(cmd, errors.New("it takes names of containers, or --all"))
			}
			svc, err := e.Connections()
			if err != nil {
				return err
			}
			return svc.Reload(cmd.Context(), args)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "For all containers")
	return cmd
}
