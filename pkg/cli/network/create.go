package network

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/userns"
)

type createOptions struct {
	network.CreateRequest
	opts, labels, aux, ipamOpts []string
	ipv4                        bool
	ignore                      bool
	iface                       string
}

// NewCreate makes "network create".
func NewCreate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o createOptions
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NETWORK",
		Short: "Create a network",
		Long: `Create a network. Beside Docker's options the driver bridge knows three of its own:
host-access=none refuses the host's own addresses and what it publishes,
host-loopback=true has the host's name lead to its 127.0.0.1 (rootless),
metadata-access=none refuses 169.254.169.254, where clouds tell machines' secrets.
A bridge of the host's that com.docker.network.bridge.name names stays when the
network is removed.`,
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := o.request(args[0])
			if err != nil {
				return ui.FlagError(cmd, err)
			}
			store, err := e.Networks()
			if err != nil {
				return err
			}
			if err := e.Prepare(); err != nil {
				return err
			}
			n, warnings, err := store.Create(cmd.Context(), r)
			if err != nil {
				if o.ignore {
					if have, e := store.Find(r.Name); e == nil && have.Name == r.Name {
						fmt.Fprintln(s.Out, have.ID)
						return nil
					}
				}
				return err
			}
			for _, w := range warnings {
				fmt.Fprintln(s.Err, "WARNING:", w)
			}
			tell(e, "create", n)
			fmt.Fprintln(s.Out, n.ID)
			return nil
		},
	}
	f := cmd.Flags()
	list := func(p *[]string, name, short, usage string) { f.StringArrayVarP(p, name, short, nil, usage) }
	f.StringVarP(&o.Driver, "driver", "d", "bridge", "Driver of the network: bridge, macvlan, ipvlan")
	f.StringSliceVar(&o.Subnets, "subnet", nil, "Subnet in CIDR form")
	f.StringSliceVar(&o.Gateways, "gateway", nil, "Gateway of the subnet")
	f.StringSliceVar(&o.Ranges, "ip-range", nil, "Give out addresses of this range of the subnet")
	list(&o.aux, "aux-address", "", "Keep back an address: NAME=IP")
	f.BoolVar(&o.ipv4, "ipv4", true, "Give out IPv4 addresses")
	f.BoolVar(&o.IPv6, "ipv6", false, "Give out IPv6 addresses")
	f.BoolVar(&o.Internal, "internal", false, "Nothing leaves the network")
	list(&o.labels, "label", "", "Set metadata on the network")
	list(&o.opts, "opt", "o", "Set an option of the driver")
	f.StringVar(&o.IPAMDriver, "ipam-driver", "default", "`Driver` of address management: default")
	list(&o.ipamOpts, "ipam-opt", "", "Set an option of address management")
	f.BoolVar(&o.Attachable, "attachable", false, "Accepted: any container may be connected")
	f.BoolVar(&o.Ingress, "ingress", false, "Routing mesh of a swarm")
	f.StringVar(&o.Scope, "scope", "", "`Scope` of the network: local")
	f.BoolVar(&o.ConfigOnly, "config-only", false, "Make a set of options for other networks")
	f.StringVar(&o.ConfigFrom, "config-from", "", "Take the options of this `network`")
	f.BoolVar(&o.ignore, "ignore", false, "Print the id of a network that is there already")
	f.StringVar(&o.iface, "interface-name", "", "`Name` of the bridge, or of the parent of macvlan and ipvlan")
	list(&o.Routes, "route", "", "Route of the containers: SUBNET,GATEWAY[,METRIC]")
	f.StringSliceVar(&o.Servers, "dns", nil, "Name servers of the network, instead of this machine's")
	f.BoolVar(&o.NoNames, "disable-dns", false, "Containers do not find each other by name")
	hide(f, "ignore", "interface-name", "route", "dns", "disable-dns")
	_ = cmd.RegisterFlagCompletionFunc("driver", complete.Words("bridge", "macvlan", "ipvlan"))
	return cmd
}

func hide(f *pflag.FlagSet, names ...string) {
	for _, n := range names {
		f.Lookup(n).Hidden = true
	}
}

func (o *createOptions) request(name string) (network.CreateRequest, error) {
	r := o.CreateRequest
	r.Name, r.NoIPv4, r.Aux, r.Rootless = name, !o.ipv4, o.aux, userns.Needed()
	r.Options, r.IPAMOpts = pairs(o.opts), pairs(o.ipamOpts)
	labels, err := flags.KeyValues("label", o.labels)
	if err != nil {
		return r, err
	}
	r.Labels = labels
	if o.iface != "" {
		key := network.OptName
		if r.Driver != "" && r.Driver != network.DriverBridge {
			key = "parent"
		}
		if r.Options == nil {
			r.Options = map[string]string{}
		}
		r.Options[key] = o.iface
	}
	for _, a := range o.aux {
		if n, _, _ := strings.Cut(a, "="); n == "" {
			return r, errors.New("invalid --aux-address: it is NAME=IP")
		}
	}
	return r, nil
}

func pairs(list []string) map[string]string {
	var m map[string]string
	for _, s := range list {
		k, v, _ := strings.Cut(s, "=")
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m
}

// tell notes what happened to a network.
func tell(e *engine.Engine, action string, n *network.Network) {
	e.Note(events.Event{Type: events.Network, Action: action, ID: n.ID, Attributes: map[string]string{"name": n.Name, "type": n.Driver}})
}
