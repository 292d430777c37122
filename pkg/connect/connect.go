package connect

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/session"
	"cais.dev/cais/pkg/run/wire"
)

// ModeEndpoint is the endpoint's id of a container with the host's network or
// none, which has no endpoint: made from its own, so that it stays the same.
func ModeEndpoint(id string) string {
	b := []byte(id)
	slices.Reverse(b)
	return string(b)
}

// ModeEvents are what the host's network or none hears when a container in it
// starts or ends. The other networks' are the monitor's.
func ModeEvents(action string, rec *container.Record, settings *container.Settings) []string {
	mode := rec.Request.Network
	driver := map[string]string{network.Host: network.DriverHost, network.None: network.DriverNull}[mode]
	if driver == "" || len(settings.Networks) > 0 {
		return nil
	}
	return []string{head(action, rec.ID, &network.Network{ID: network.BuiltinID(mode), Name: mode, Driver: driver})}
}

// Connect adds a network to a container: at once if it runs, else from its next
// start on, which its network hears of only then.
func (s *Service) Connect(ctx context.Context, netRef, ref string, a plan.Attachment) error {
	n, err := s.Networks().Find(netRef)
	if err != nil {
		return err
	}
	c, err := s.reconnect(ctx, ref, func(c *container.Container) error {
		if err := special(n, a); err != nil {
			return err
		}
		if err := connectable(c, n); err != nil {
			return err
		}
		if slices.ContainsFunc(c.Settings.Networks, func(have plan.Attachment) bool { return have.ID == n.ID }) {
			return errs.New(errs.Denied, "endpoint with name "+c.Name()+" already exists in network "+n.Name)
		}
		if err := a.Check(); err != nil {
			return err
		}
		a.Network, a.ID = n.Name, n.ID
		if err := attachable(n, a); err != nil {
			return err
		}
		c.Settings.Networks = append(c.Settings.Networks, a)
		return nil
	})
	if err == nil && c.Alive {
		s.note(event("connect", c.ID, n))
	}
	return err
}

// special refuses what Docker's own networks cannot give.
func special(n *network.Network, a plan.Attachment) error {
	switch {
	case plan.UserDefined(n.Name):
	case len(a.Aliases) > 0:
		return errs.New(errs.Invalid, "network-scoped alias is supported only for containers in user defined networks")
	case a.IP != "" || a.IP6 != "":
		return errs.New(errs.Invalid, "user specified IP address is supported on user defined networks only")
	}
	return nil
}

// connectable refuses containers whose network is not to be changed.
func connectable(c *container.Container, n *network.Network) error {
	mode := c.Record.Request.Network
	switch {
	case c.Record.Request.SharesNetwork():
		return errs.New(errs.Denied, "container sharing network namespace with another container or host cannot be connected to any other network")
	case n.Name == network.Host:
		return errs.New(errs.Denied, "cannot connect container to host network - container must be created in host network mode")
	case n.Name == network.None, mode == network.None && len(c.Settings.Networks) == 0:
		return errs.New(errs.Denied, "container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	return nil
}

// Disconnect takes a network away from a container. With force also from one that
// a damaged state says nothing of.
func (s *Service) Disconnect(ctx context.Context, netRef, ref string, force bool) error {
	n, err := s.Networks().Find(netRef)
	if force && errs.KindOf(err) == errs.NotFound { // it was removed under a container that does not run
		n, err = s.formerNetwork(netRef, ref)
	}
	if err != nil {
		return err
	}
	c, err := s.reconnect(ctx, ref, func(c *container.Container) error {
		if n.Name == network.Host && c.Record.Request.Network == network.Host {
			return errs.New(errs.Denied, "cannot disconnect container from host network - container was created in host network mode")
		}
		i := slices.IndexFunc(c.Settings.Networks, func(a plan.Attachment) bool { return a.ID == n.ID })
		if i < 0 {
			if force && n.Name == network.None {
				return nil
			}
			return errs.New(errs.Denied, "container "+c.ID+" is not connected to network "+n.Name)
		}
		c.Settings.Networks = slices.Delete(slices.Clone(c.Settings.Networks), i, i+1)
		return nil
	})
	if err == nil {
		s.note(event("disconnect", c.ID, n))
	}
	return err
}

// formerNetwork is a network that is gone, as a container remembers it.
func (s *Service) formerNetwork(name, ref string) (*network.Network, error) {
	id, err := s.store.Find(ref)
	if err != nil {
		return nil, err
	}
	c, err := s.store.Load(id)
	if err != nil {
		return nil, err
	}
	for _, a := range c.Settings.Networks {
		if a.Network == name {
			return &network.Network{ID: a.ID, Name: name}, nil
		}
	}
	return nil, errs.New(errs.NotFound, "network "+name+" not found")
}

// reconnect changes a container's networks, and its network if it runs. It returns
// the container's id.
func (s *Service) reconnect(ctx context.Context, ref string, change func(*container.Container) error) (*container.Container, error) {
	c, l, err := s.store.Take(ctx, ref)
	if err != nil {
		return nil, err
	}
	defer l.Release()
	if c.Settings.Networks == nil {
		if c.Settings.Networks, err = s.Attachments(c.Record.Request); err != nil {
			return nil, err
		}
	}
	if err := change(c); err != nil {
		return nil, err
	}
	if c.Alive {
		if err := s.replug(ctx, c); err != nil {
			return nil, err
		}
	}
	return c, s.store.WriteSettings(c.ID, c.Settings, !c.Record.AutoRemove())
}

// replug brings the network of a container that runs to what its settings say.
func (s *Service) replug(ctx context.Context, c *container.Container) (err error) {
	dir := s.store.Dir(c.ID)
	old := network.ReadSandbox(dir)
	if old == nil || old.Engine == "" {
		err := errs.New(errs.Conflict, "container "+c.Name()+" runs without a network that could be changed")
		return errs.WithHint(err, "An older cais has started it: restart it.")
	}
	hostname, err := s.hostname(c.ID)
	if err != nil {
		return err
	}
	nets, err := s.definitions(ctx, c.Settings.Networks)
	if err != nil {
		return err
	}
	con := &Connection{box: network.Sandbox{Engine: old.Engine, Ports: old.Ports}}
	defer func() {
		if err != nil {
			err = errors.Join(err, con.Abandon())
			return
		}
		con.Close()
	}()
	if err := s.rejoin(ctx, con, c, hostname, nets, old); err != nil {
		return err
	}
	if err := session.Network(ctx, dir, wire.Marshal(con.Net), con.Files); err != nil {
		return err
	}
	if err := s.etcNetwork(c.Record, nets, &con.box, hostname); err != nil {
		return err
	}
	return network.WriteSandbox(dir, &con.box)
}

// rejoin decides on the network of a container that runs: what it has stays, what
// it lacks is held.
func (s *Service) rejoin(ctx context.Context, con *Connection, c *container.Container, hostname string, nets []*network.Network, old *network.Sandbox) (err error) {
	list := c.Settings.Networks
	var fresh []plan.Attachment
	var freshNets []*network.Network
	for i, a := range list {
		if old.Endpoint(a.ID) == nil {
			a.Interface = freeName(a, nets[i], old, fresh)
			fresh, freshNets = append(fresh, a), append(freshNets, nets[i])
		}
	}
	if con.held, err = s.hold(ctx, c.Record, c.Name(), hostname, fresh, freshNets, nil); err != nil {
		return err
	}
	held := con.held // in the order of list
	for _, a := range list {
		if e := old.Endpoint(a.ID); e != nil {
			con.box.Endpoints = append(con.box.Endpoints, *e)
			continue
		}
		con.box.Endpoints = append(con.box.Endpoints, held[0].Endpoint)
		held = held[1:]
	}
	if err := s.describe(con, c.Record, list, nets); err != nil {
		return err
	}
	if len(old.Ports) > 0 {
		s.keepPorts(con, nets, old)
		return nil
	}
	return explain(s.publish(con, c.Record, nets)) // they went with the last network
}

// hostname is the name that a container has for itself.
func (s *Service) hostname(id string) (string, error) {
	text, err := s.store.Spec(id)
	if err != nil {
		return "", err
	}
	var spec struct{ Hostname string }
	if err := json.Unmarshal(text, &spec); err != nil {
		return "", fmt.Errorf("read the container's spec: %w", err)
	}
	return spec.Hostname, nil
}

// freeName is the name of an interface that is added to others.
func freeName(a plan.Attachment, n *network.Network, old *network.Sandbox, fresh []plan.Attachment) string {
	if name := interfaceName(a); name != "" {
		return name
	}
	o, _, _ := network.ReadOptions(n) // checked when the network was made
	for i := 0; ; i++ {
		try := o.IfPrefix + fmt.Sprint(i)
		if !slices.ContainsFunc(old.Endpoints, func(e network.Endpoint) bool { return e.Interface == try }) &&
			!slices.ContainsFunc(fresh, func(f plan.Attachment) bool { return f.Interface == try }) {
			return try
		}
	}
}

// Renamed tells the networks that a container has another name. The caller holds
// its lock and has changed its settings.
func (s *Service) Renamed(ctx context.Context, c *container.Container, was string) error {
	if !c.Alive {
		return nil
	}
	err := s.Networks().Rename(ctx, c.ID, func(e *network.Endpoint) {
		e.Name = c.Name()
		for i, name := range e.Names {
			if name == was {
				e.Names[i] = c.Name()
			}
		}
	})
	box := network.ReadSandbox(s.store.Dir(c.ID))
	if box == nil {
		return err
	}
	for i := range box.Endpoints {
		e := &box.Endpoints[i]
		e.Name = c.Name()
		for k, name := range e.Names {
			if name == was {
				e.Names[k] = c.Name()
			}
		}
	}
	return errors.Join(err, network.WriteSandbox(s.store.Dir(c.ID), box))
}

// Update changes the name servers of a network, also for the containers in it
// that run.
func (s *Service) Update(ctx context.Context, ref string, add, drop []string) (*network.Network, error) {
	n, err := s.Networks().SetServers(ctx, ref, add, drop)
	if err != nil {
		return n, err
	}
	eps, err := s.Networks().Endpoints(n.ID)
	if err != nil {
		return n, err
	}
	same := func(*container.Container) error { return nil }
	var failed []error
	for _, e := range eps {
		if _, err := s.reconnect(ctx, e.Container, same); err != nil && errs.KindOf(err) != errs.NotFound { // a build's has no record
			failed = append(failed, err)
		}
	}
	return n, errors.Join(failed...)
}
