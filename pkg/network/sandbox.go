package network

import (
	"os"
	"path/filepath"

	"cais.dev/cais/pkg/atomicfile"
	"cais.dev/cais/pkg/plainjson"
)

// Sandbox is the network of a container that runs, in network.json beside its
// state: what inspect shows. It says nothing once the container has ended, but
// for the addresses that the next start asks for again.
type Sandbox struct {
	Version   int        `json:"v"`
	Engine    string     `json:"engine,omitempty"`
	Endpoints []Endpoint `json:"endpoints,omitempty"`
	Ports     []Bound    `json:"ports,omitempty"`
}

// Bound is a published port.
type Bound struct {
	Proto    string `json:"proto"`
	Port     int    `json:"port"`
	HostIP   string `json:"hostIP"`
	HostPort int    `json:"hostPort"`
}

const sandboxFile = "network.json"

// ReadSandbox reads that of the container in dir, its directory; nil if there is
// none.
func ReadSandbox(dir string) *Sandbox {
	path := filepath.Join(dir, "run", sandboxFile)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	s := new(Sandbox)
	if decode(path, b, s) != nil || s.Version > Version {
		return nil
	}
	return s
}

// WriteSandbox replaces that of the container in dir. The caller holds its lock.
func WriteSandbox(dir string, s *Sandbox) error {
	s.Version = Version
	b, err := plainjson.Marshal(s)
	if err != nil {
		return err
	}
	return atomicfile.WriteLocked(filepath.Join(dir, "run", sandboxFile), b, 0o600, false)
}

// Endpoint returns the endpoint in network id; nil if there is none.
func (s *Sandbox) Endpoint(id string) *Endpoint {
	if s == nil {
		return nil
	}
	for i := range s.Endpoints {
		if s.Endpoints[i].Network == id {
			return &s.Endpoints[i]
		}
	}
	return nil
}
