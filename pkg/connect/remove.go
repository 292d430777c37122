package connect

import (
	"context"
	"errors"

	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/plane"
)

// Remove removes a network that no container is in, with its bridge and
// rules. (A user's are in the gateway's namespace, and go with it.)
func (s *Service) Remove(ctx context.Context, ref string) (*network.Network, error) {
	n, err := s.Networks().Remove(ctx, ref)
	if err != nil || s.engine() != engineBridge {
		return n, err
	}
	o, _, _ := network.ReadOptions(n) // checked when the network was made
	if bridge := bridgeName(n, o); bridge != "" {
		return n, s.removeBridge(ctx, bridge, o.BridgeName != "")
	}
	return n, nil
}

// removeBridge removes a bridge, and what firewalls know of it. One with a name of the
// user's stays if it was there before.
func (s *Service) removeBridge(ctx context.Context, bridge string, named bool) error {
	_, err := s.passFirewalld(ctx, bridge, named, false)
	s.warn(err)
	return errors.Join(plane.RemoveNetwork(bridge, named), passLegacy(bridge, false))
}

// Reset takes from this machine what the default network has made on it,
// which stays after its containers. Nothing may be in a network any more.
func (s *Service) Reset(ctx context.Context) error {
	if s.engine() != engineBridge {
		return nil // a user's go with their containers
	}
	n, err := s.Networks().Find(network.Bridge)
	if err != nil || n.Device == "" { // it has not come to be
		return err
	}
	return s.removeBridge(ctx, n.Device, false)
}
