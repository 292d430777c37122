package ociruntime

import (
	"context"
	"encoding/json"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/errs"
)

// Limits are what `update` changes: a resources section, then single values by the
// names of their flags.
type Limits struct {
	JSON       []byte
	Numbers    map[string]int64
	Cpus, Mems string
}

// Limit changes the limits of a container.
func (r *Runtime) Limit(ctx context.Context, id string, l Limits) error {
	res := &specs.LinuxResources{}
	if l.JSON != nil {
		if err := json.Unmarshal(l.JSON, res); err != nil {
			return errs.E("decode the resources", errs.Invalid, err)
		}
	}
	l.apply(res)
	return r.Update(ctx, id, res)
}

func (l Limits) apply(res *specs.LinuxResources) {
	if res.Memory == nil {
		res.Memory = &specs.LinuxMemory{}
	}
	if res.CPU == nil {
		res.CPU = &specs.LinuxCPU{}
	}
	m, c := res.Memory, res.CPU
	unsigned := func(v int64) *uint64 { u := uint64(v); return &u }
	for name, v := range l.Numbers {
		switch name {
		case "memory":
			m.Limit = &v
		case "memory-reservation":
			m.Reservation = &v
		case "memory-swap":
			m.Swap = &v
		case "cpu-period":
			c.Period = unsigned(v)
		case "cpu-quota":
			c.Quota = &v
		case "cpu-burst":
			c.Burst = unsigned(v)
		case "cpu-share":
			c.Shares = unsigned(v)
		case "cpu-rt-period":
			c.RealtimePeriod = unsigned(v)
		case "cpu-rt-runtime":
			c.RealtimeRuntime = &v
		case "cpu-idle":
			c.Idle = &v
		case "pids-limit":
			res.Pids = &specs.LinuxPids{Limit: &v}
		case "blkio-weight":
			w := uint16(v)
			if res.BlockIO == nil {
				res.BlockIO = &specs.LinuxBlockIO{}
			}
			res.BlockIO.Weight = &w
		}
	}
	if l.Cpus != "" {
		c.Cpus = l.Cpus
	}
	if l.Mems != "" {
		c.Mems = l.Mems
	}
}

// Event is one line of `events`, in runc's form as far as we count.
type Event struct {
	Type string    `json:"type"`
	ID   string    `json:"id"`
	Data eventData `json:"data"`
}

type eventData struct {
	CPU struct {
		Usage struct {
			Total uint64 `json:"total"` // ns
		} `json:"usage"`
	} `json:"cpu"`
	Memory struct {
		Usage struct {
			Usage uint64 `json:"usage"`
			Limit uint64 `json:"limit"`
		} `json:"usage"`
	} `json:"memory"`
	Pids struct {
		Current uint64 `json:"current"`
		Limit   uint64 `json:"limit"`
	} `json:"pids"`
}

// Event returns what the container uses now.
func (r *Runtime) Event(id string) (*Event, error) {
	s, err := r.Stats(id)
	if err != nil {
		return nil, err
	}
	e := &Event{Type: "stats", ID: id}
	e.Data.CPU.Usage.Total = s.CPUNanos
	e.Data.Memory.Usage.Usage, e.Data.Memory.Usage.Limit = s.MemoryBytes, s.MemoryLimit
	e.Data.Pids.Current, e.Data.Pids.Limit = s.Pids, s.PidsLimit
	return e, nil
}
