// Package network has the commands for networks, one file each.
package network

import (
	"context"
	"slices"

	"cais.dev/cais/pkg/connect"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
)

// in reports whether an attachment is to network n.
func in(a plan.Attachment, n *network.Network) bool {
	return a.ID == n.ID || a.ID == "" && a.Network == n.Name
}

// uses reports whether the container is in n, or will be once it runs.
func uses(c *container.Container, n *network.Network) bool {
	mode := c.Record.Request.Network
	if n.Name == network.Host && n.Builtin() {
		return mode == network.Host
	}
	if n.Name == network.None && n.Builtin() {
		return mode == network.None && len(c.Networks()) == 0
	}
	return slices.ContainsFunc(c.Networks(), func(a plan.Attachment) bool { return in(a, n) })
}

// containers lists all containers without looking at images or this machine.
func containers(ctx context.Context, e *engine.Engine) ([]*container.Container, error) {
	store, err := e.ContainerStore()
	if err != nil {
		return nil, err
	}
	return run.New(run.Options{Store: store}).List(ctx)
}

// Inspect returns what is known of the network that ref means.
func Inspect(ctx context.Context, e *engine.Engine, ref string) (*docker.Network, error) {
	store, err := e.Networks()
	if err != nil {
		return nil, err
	}
	n, err := store.Find(ref)
	if err != nil {
		return nil, err
	}
	running := map[string]docker.NetworkContainer{}
	if n.Driver == network.DriverHost || n.Driver == network.DriverNull {
		all, err := containers(ctx, e)
		if err != nil {
			return nil, err
		}
		for _, c := range all {
			if c.Running() && uses(c, n) {
				running[c.ID] = docker.NetworkContainer{Name: c.Name(), EndpointID: connect.ModeEndpoint(c.ID)}
			}
		}
		return docker.NewNetwork(n, running), nil
	}
	eps, err := store.Endpoints(n.ID)
	if err != nil {
		return nil, err
	}
	for _, ep := range eps {
		running[ep.Container] = docker.NewNetworkContainer(ep)
	}
	return docker.NewNetwork(n, running), nil
}
