package run

import (
	"fmt"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
)

// modes are the requests that may name another container.
func modes(req *plan.Request) map[string]*string {
	return map[string]*string{
		"network": &req.Network, "pid": &req.PIDMode, "ipc": &req.IPCMode,
		"uts": &req.UTSMode, "user": &req.UserNS, "cgroup": &req.CgroupNSMode,
	}
}

// joined replaces the names of other containers in req, which is of the one called
// name, by their ids.
func (s *Service) joined(req *plan.Request, name string) error {
	for kind, mode := range modes(req) {
		ref, ok := strings.CutPrefix(*mode, "container:")
		if !ok {
			continue
		}
		if ref == name && name != "" {
			return errs.New(errs.Invalid, "cannot join own "+kind+" namespace")
		}
		id, err := s.store.Find(ref)
		if err != nil {
			return err
		}
		if kind == "ipc" {
			if err := s.shareable(id, ref); err != nil {
				return err
			}
		}
		*mode = "container:" + id
	}
	return nil
}

// shareable refuses a container whose IPC is its own, as Docker's is unless it
// was asked to be shareable.
func (s *Service) shareable(id, ref string) error {
	c, err := s.store.Load(id)
	if err != nil {
		return err
	}
	switch c.Record.Request.IPCMode {
	case "", "private", "none":
		err := errs.New(errs.Conflict, fmt.Sprintf("can't join IPC of container %s: non-shareable IPC", ref))
		return errs.WithHint(err, "Make that container with --ipc shareable.")
	}
	return nil
}

// others returns the ids of the containers whose namespaces req joins, by kind.
func others(req plan.Request) map[string]string {
	ids := map[string]string{}
	for kind, mode := range modes(&req) {
		if id, ok := strings.CutPrefix(*mode, "container:"); ok {
			ids[kind] = id
		}
	}
	return ids
}

// namespaces returns the paths of the namespaces of other containers that req
// joins. One that does not run yet gets pid 0; start looks again.
func (s *Service) namespaces(req plan.Request) map[string]string {
	paths := map[string]string{}
	for kind, id := range others(req) {
		pid := 0
		if c, err := s.store.Load(id); err == nil && c.Running() {
			pid = c.State.PID
		}
		paths[kind] = nsPath(pid, kind)
	}
	return paths
}

func nsPath(pid int, kind string) string {
	if kind == "network" {
		kind = "net"
	}
	return fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
}
