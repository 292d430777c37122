package connect

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"slices"
	"syscall"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/dns"
	"cais.dev/cais/pkg/network/loop"
	"cais.dev/cais/pkg/network/netns"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/network/space"
)

// Build is a namespace on the default network that this process serves: the
// commands of a build share it.
type Build struct {
	Resolv string // for /etc/resolv.conf
	HostIP string // what host-gateway means

	space *space.Space
	c     *Connection
}

// Path is the namespace's, for a spec.
func (b *Build) Path() string { return b.space.Path() }

// Close ends it.
func (b *Build) Close() error {
	err := b.space.Close()
	for _, h := range b.c.held {
		if e := h.Release(); !errors.Is(e, os.ErrClosed) { // the space has closed the file
			err = errors.Join(err, e)
		}
	}
	return err
}

// OpenBuild makes one; id, 64 hex digits, is whom its address belongs to. The
// process must be root, or root of the user's namespace, where its commands will be.
func (s *Service) OpenBuild(ctx context.Context, id string) (b *Build, err error) {
	rec := &container.Record{ID: id}
	list, err := s.Attachments(rec.Request)
	if err != nil {
		return nil, err
	}
	c := &Connection{box: network.Sandbox{Engine: s.engine()}}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Abandon())
		}
	}()
	nets, err := s.definitions(ctx, list)
	if err != nil {
		return nil, err
	}
	if c.held, err = s.hold(ctx, rec, "build-"+container.ShortID(id), "", list, nets, nil); err != nil {
		return nil, err
	}
	for _, h := range c.held {
		c.box.Endpoints = append(c.box.Endpoints, h.Endpoint)
	}
	if err := s.describe(c, rec, list, nets); err != nil {
		return nil, err
	}
	b = &Build{c: c}
	ipv6 := slices.ContainsFunc(c.box.Endpoints, func(e network.Endpoint) bool { return e.IP6.IsValid() })
	b.Resolv, _ = s.resolv(rec.Request, s.ownNames(rec, nets), ipv6).Text() // without a server names are unknown, as they are here
	gateway := netip.Addr{}
	if len(c.box.Endpoints) > 0 {
		gateway = c.box.Endpoints[0].Gateway
	}
	if c.box.Engine == engineRelay {
		gateway = netip.MustParseAddr(hostIP)
	}
	b.HostIP = gateway.String()
	note := func(text string) { s.log.Warn(text) }
	b.space, err = space.Open(space.Options{Net: c.Net, Held: c.Files, Note: note, Names: func(l *loop.Loop) plane.Names {
		return dns.New(l, func(f func() error) error { return b.inside(f) }, note)
	}})
	if err != nil {
		return nil, err
	}
	return b, nil
}

// inside calls f in the namespace.
func (b *Build) inside(f func() error) error {
	ns, err := netns.Open(b.Path())
	if err != nil {
		return err
	}
	err = netns.Visit(ns, f)
	_ = syscall.Close(ns) // a handle
	return err
}
