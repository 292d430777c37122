package container

import "time"

// Health is what the probes of a container found. Its monitor writes it, by hand.
type Health struct {
	Version       int      `json:"v"`
	Status        string   `json:"status"` // starting, healthy, unhealthy
	FailingStreak int      `json:"failingStreak"`
	Log           []Probed `json:"log"` // the last five
}

// Probed is the outcome of one probe.
type Probed struct {
	Start    time.Time `json:"start"`
	End      time.Time `json:"end"`
	ExitCode int       `json:"exitCode"` // -1: it took too long
	Output   string    `json:"output"`
}

// Health is how the container does; nil if it is not probed, or has not run since
// this machine started.
func (c *Container) Health() *Health {
	h := new(Health)
	if readerOf(c.Dir).read(runLink+"/health.json", h, &h.Version) != nil {
		return nil
	}
	return h
}
