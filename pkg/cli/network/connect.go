package network

import (
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run/plan"
)

// NewConnect makes "network connect".
func NewConnect(e *engine.Engine, _ ui.Streams) *cobra.Command {
	var a plan.Attachment
	var links, opts []string
	var mac string
	cmd := &cobra.Command{
		Use:               "connect [OPTIONS] NETWORK CONTAINER",
		Short:             "Connect a container to a network",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.NetworkThenContainer(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, l := range links {
				link, err := flags.ParseLink(l)
				if err != nil {
					return ui.FlagError(cmd, err)
				}
				a.Links = append(a.Links, link)
			}
			for _, o := range opts {
				if err := flags.DriverOpt(&a, o); err != nil {
					return err
				}
			}
			if mac != "" {
				var err error
				if a.MAC, err = flags.MAC(mac); err != nil {
					return err
				}
			}
			if _, err := e.Healed(cmd.Context()); err != nil {
				return err
			}
			svc, err := e.Connections()
			if err != nil {
				return err
			}
			return svc.Connect(cmd.Context(), args[0], args[1], a)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&a.Aliases, "alias", nil, "Add a name for the container on this network")
	f.StringVar(&a.IP, "ip", "", "IPv4 `address`")
	f.StringVar(&a.IP6, "ip6", "", "IPv6 `address`")
	f.StringArrayVar(&links, "link", nil, "Add a name for another container: CONTAINER[:ALIAS]")
	f.StringSliceVar(&a.LinkLocal, "link-local-ip", nil, "Add a link-local address")
	f.StringSliceVar(&opts, "driver-opt", nil, "Set an option of the endpoint")
	f.IntVar(&a.GwPriority, "gw-priority", 0, "The network with the highest is the way out")
	f.StringVar(&mac, "mac-address", "", "MAC `address`")
	return cmd
}

// NewDisconnect makes "network disconnect".
func NewDisconnect(e *engine.Engine, _ ui.Streams) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "disconnect [OPTIONS] NETWORK CONTAINER",
		Short:             "Disconnect a container from a network",
		Args:              ui.ExactArgs(2),
		ValidArgsFunction: complete.NetworkThenContainer(e),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := e.Healed(cmd.Context()); err != nil {
				return err
			}
			svc, err := e.Connections()
			if err != nil {
				return err
			}
			return svc.Disconnect(cmd.Context(), args[0], strings.TrimPrefix(args[1], "/"), force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Disconnect it also if the container does not take part")
	return cmd
}
