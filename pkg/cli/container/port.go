package container

import (
	"context"
	"fmt"
	"net"
	"strconv"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
)

// NewPort makes "port", "container port".
func NewPort(e *engine.Engine, s ui.Streams) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "port CONTAINER [PRIVATE_PORT[/PROTO]]",
		Short: "List a container's published ports, or where one is published",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.RangeArgs(1, 2)(cmd, args)
		},
		ValidArgsFunction: complete.Containers(e, 1, (*container.Container).Running),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := e.ContainerStore()
			if err != nil {
				return err
			}
			svc := run.New(run.Options{Store: store})
			if all {
				return allPorts(cmd.Context(), s, svc)
			}
			id, err := store.Find(args[0])
			if err != nil {
				return err
			}
			c, err := store.Load(id)
			if err != nil {
				return err
			}
			return port(s, c, args)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "List the ports of all containers that run")
	cmd.Flags().Lookup("all").Hidden = true
	return cmd
}

func port(s ui.Streams, c *container.Container, args []string) error {
	ports := docker.Ports(c, network.ReadSandbox(c.Dir))
	if len(args) == 1 {
		for _, line := range docker.PublishedText(ports) {
			fmt.Fprintln(s.Out, line)
		}
		return nil
	}
	number, proto := plan.CutProto(args[1])
	if _, err := strconv.ParseUint(number, 10, 16); err != nil {
		return fmt.Errorf("invalid port (%s): %w", number, err)
	}
	bindings := ports[number+"/"+proto]
	if len(bindings) == 0 {
		return errs.New(errs.Invalid, fmt.Sprintf("no public port '%s' published for %s", args[1], args[0]))
	}
	for _, b := range bindings {
		fmt.Fprintln(s.Out, net.JoinHostPort(b.HostIP, b.HostPort))
	}
	return nil
}

// allPorts is podman's --all.
func allPorts(ctx context.Context, s ui.Streams, svc lister) error {
	list, err := svc.List(ctx)
	for _, c := range list {
		for _, line := range docker.PublishedText(docker.Ports(c, sandbox(c))) {
			fmt.Fprintf(s.Out, "%s\t%s\n", container.ShortID(c.ID), line)
		}
	}
	return err
}

// portFilter reads the value of the filters publish and expose: a port or a range
// of them, and a protocol.
func portFilter(key, v string) (first, last int, proto string, err error) {
	text, proto := plan.CutProto(v)
	first, last, err = plan.PortRange(text)
	if err != nil {
		err = fmt.Errorf("error while looking up for %s %s: %w", key, v, err)
	}
	return first, last, proto, err
}

// hasPort reports whether a container that runs publishes such a port on the host,
// or has it exposed.
func hasPort(c *container.Container, key, v string) bool {
	first, last, proto, err := portFilter(key, v)
	if err != nil {
		return false // refused before
	}
	for name, bindings := range docker.Ports(c, sandbox(c)) {
		number, p := plan.CutProto(name)
		if p != proto {
			continue
		}
		if n, err := strconv.Atoi(number); key == "expose" && err == nil && n >= first && n <= last {
			return true
		}
		for _, b := range bindings {
			if n, err := strconv.Atoi(b.HostPort); key == "publish" && err == nil && n >= first && n <= last {
				return true
			}
		}
	}
	return false
}
