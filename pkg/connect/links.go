package connect

import (
	"slices"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/run/plan"
)

// CheckLinks finds the containers of --link on the default network.
func (s *Service) CheckLinks(req plan.Request) error {
	for _, l := range req.Links {
		name, _, _ := strings.Cut(l, ":")
		if _, err := s.linkTarget(name); err != nil {
			return err
		}
	}
	return nil
}

// linkTarget is the container that a --link leads to: of one that is in another's
// network, that other.
func (s *Service) linkTarget(name string) (*container.Container, error) {
	for range 16 { // one in its own network cannot be made
		id, err := s.store.Find(name)
		if err != nil {
			return nil, errs.E("could not get container for "+name, errs.KindOf(err), err)
		}
		c, err := s.store.Load(id)
		if err != nil {
			return nil, err
		}
		mode, owner, shares := strings.Cut(c.Record.Request.Network, ":")
		switch {
		case mode == network.Host:
			return nil, errs.New(errs.Invalid, "conflicting options: host type networking can't be used with links. This would result in undefined behavior")
		case mode != "container" || !shares:
			return c, nil
		}
		name = owner
	}
	return nil, errs.New(errs.Conflict, "too many containers share the network of "+name)
}

// linked is the container of a --link, and where it is on the default network.
func (s *Service) linked(name, alias string) (*container.Container, *network.Endpoint, error) {
	c, err := s.linkTarget(name)
	if err != nil {
		return nil, nil, err
	}
	eps, err := s.Networks().Endpoints(network.BuiltinID(network.Bridge))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range eps {
		if e.Container == c.ID && e.IP.IsValid() {
			return c, e, nil
		}
	}
	return nil, nil, errs.New(errs.Conflict, "Cannot link to a non running container: /"+name+" AS "+alias)
}

// linkLine is the line of a --link in /etc/hosts.
func linkLine(c *container.Container, e *network.Endpoint, alias string) network.HostLine {
	var list []string
	for _, n := range []string{alias, c.Record.Request.Hostname, container.ShortID(c.ID), e.Name} {
		if n != "" && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return network.HostLine{IP: e.IP, Names: strings.Join(list, " ")}
}

// LinkEnv adds the variables of --link to a process's environment. Another
// container that does not run now has none to give.
func (s *Service) LinkEnv(env []string, req plan.Request, name string) []string {
	if len(req.Links) == 0 {
		return env
	}
	var links []plan.Link
	for _, l := range req.Links {
		other, alias, _ := strings.Cut(l, ":")
		c, e, err := s.linked(other, alias)
		if err != nil {
			continue // at a start, hostsOf has refused it
		}
		links = append(links, plan.Link{Owner: name, Alias: alias, IP: e.IP.String(), Request: c.Record.Request, Image: c.Record.Image})
	}
	return plan.WithLinks(env, links)
}
