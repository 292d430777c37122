// Package connect brings containers onto networks: it decides on addresses, ports,
// names and the files in /etc that say so, for a container that starts, one that
// runs and the commands of a build. What it decides a monitor carries out, or
// network/space; what lies on the machine for all containers is package plane's.
package connect

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/network/plane"
	"cais.dev/cais/pkg/userns"
)

// Options are what a service works on.
type Options struct {
	Containers container.Store
	Log        *slog.Logger
	Note       func(...events.Event) // tells what happens to networks
	Environ    []string              // the command's: sockets that were passed on, and see engineEnv
}

// Service connects one user's containers.
type Service struct {
	store   container.Store
	log     *slog.Logger
	note    func(...events.Event)
	environ []string

	inheritance
}

// New returns a service. It touches nothing yet.
func New(o Options) *Service {
	return &Service{store: o.Containers, log: o.Log, note: o.Note, environ: o.Environ}
}

// Networks is where the networks' files are.
func (s *Service) Networks() network.Store {
	n := network.Store{Root: s.store.Root, Run: s.store.Run}
	if s.engine() == engineBridge {
		n.Machine, n.Gone = network.MachineDir, plane.RemoveIdle
	}
	return n
}

// event is what a network hears of a container.
func event(action, container string, n *network.Network) events.Event {
	return events.Event{Type: events.Network, Action: action, ID: n.ID, Attributes: map[string]string{"container": container, "name": n.Name, "type": n.Driver}}
}

// head is an event as a monitor has it: a line that lacks its time.
func head(action, container string, n *network.Network) string {
	return string(events.AppendHead(nil, event(action, container, n)))
}

// The ways to bring a container's packets out: network/plane's names.
const (
	engineRelay    = "relay"
	engineBridge   = "bridge"
	engineNetstack = "netstack"
)

// hostIP and hostIP6 stand for this machine in a container whose packets go
// through the relay.
const (
	hostIP  = "169.254.1.2"
	hostIP6 = "fd00:6361:6973::2"
)

// Variables that choose how containers get out, for tests and for hosts whose
// kernel promises what it does not keep.
const (
	engineEnv  = "CAIS_NETWORK_ENGINE"  // relay, bridge or netstack
	withoutEnv = "CAIS_NETWORK_WITHOUT" // features of the kernel not to use: queue, nfqueue, tproxy, ipv6, fib
)

// env returns a variable of the command's environment.
func (s *Service) env(name string) string {
	for _, kv := range s.environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// netstack is the program for kernels that cannot relay, beside this one; "" if it
// is not there.
func netstack() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	path := filepath.Join(filepath.Dir(exe), "cais-netstack")
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// engine is how this user's containers get out.
func (s *Service) engine() string {
	if e := s.env(engineEnv); e == engineRelay || e == engineBridge || e == engineNetstack {
		return e
	}
	if userns.Needed() || userns.Inside() {
		return engineRelay
	}
	return engineBridge
}
