package run

import (
	"context"

	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/plane"
)

// RemoveNetwork removes a network that no container is in, with its bridge and
// rules. (A user's are in the gateway's namespace, and go with it.)
func (s *Service) RemoveNetwork(ctx context.Context, ref string) (*network.Network, error) {
	n, err := s.nets().Remove(ctx, ref)
	if err != nil || s.engine() != engineBridge {
		return n, err
	}
	o, _, _ := network.ReadOptions(n) // checked when the network was made
	if bridge := bridgeName(n, o); bridge != "" {
		return n, plane.RemoveNetwork(bridge, o.BridgeName != "")
	}
	return n, nil
}
