package container

import (
	"os"
	"path/filepath"
	"time"

	"cais.dev/cais/pkg/run/plan"
)

// Status derives Docker's word from the files.
//
//	alive held           what state.json says; created while there is none yet
//	alive free, run lost exited: its monitor died without an exit record
//	alive free, exit     exited, or created if the run never began
//	alive free, neither  created
func (c *Container) Status() Status {
	switch {
	case c.Alive && c.State != nil:
		return c.State.Status
	case c.Alive:
		return Created
	case c.Lost():
		return Exited
	case c.Exit != nil && !c.Exit.StartedAt.IsZero():
		return Exited
	default:
		return Created
	}
}

// Running reports whether the container has a process: running or paused.
func (c *Container) Running() bool {
	s := c.Status()
	return c.Alive && (s == Running || s == Paused)
}

// Lost reports that a run began of whose end nothing is written: its monitor
// was killed, or the machine went down.
func (c *Container) Lost() bool {
	if c.Alive {
		return false
	}
	if c.State != nil {
		began := c.State.Status == Running || c.State.Status == Paused || c.State.Status == Restarting
		return began && (c.Exit == nil || c.Exit.StartedAt.Before(c.State.StartedAt))
	}
	if c.Exit != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(c.Dir, aliveFile)) // a monitor made it, and left no word
	return err == nil
}

// LastExit returns how the container ended, with an exit made up for a lost
// run; nil if it has not ended.
func (c *Container) LastExit() *Exit {
	if !c.Lost() {
		return c.Exit
	}
	e := &Exit{Version: Version, Code: 137, Error: "its monitor was killed"}
	if c.State != nil {
		e.StartedAt, e.Restarts = c.State.StartedAt, c.State.RestartCount
	}
	if fi, err := os.Lstat(filepath.Join(c.Dir, aliveFile)); err == nil {
		e.FinishedAt = fi.ModTime()
		if e.StartedAt.IsZero() {
			e.StartedAt = fi.ModTime()
		}
	}
	if e.FinishedAt.Before(e.StartedAt) {
		e.FinishedAt = e.StartedAt
	}
	return e
}

// StartedAt is when the present or the last run began; zero if none did.
func (c *Container) StartedAt() time.Time {
	if c.State != nil && !c.State.StartedAt.IsZero() {
		return c.State.StartedAt
	}
	if c.Exit != nil {
		return c.Exit.StartedAt
	}
	return time.Time{}
}

// Limits are the container's as they are now.
func (c *Container) Limits() plan.Resources {
	if c.Settings != nil && c.Settings.Resources != nil {
		return *c.Settings.Resources
	}
	return c.Record.Request.Resources
}

// Name is the container's name, or its short id while it has none.
func (c *Container) Name() string {
	if c.Settings != nil && c.Settings.Name != "" {
		return c.Settings.Name
	}
	return ShortID(c.ID)
}
