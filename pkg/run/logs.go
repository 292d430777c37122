package run

import (
	"context"
	"path/filepath"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/logs"
)

// LogsOptions say what to read of a container's log.
type LogsOptions struct {
	Follow       bool
	Since, Until time.Time // the zero value is no limit
	Tail         int       // how many entries to begin with; negative: all

	CaughtUp func() error // if set: called before more is waited for
}

// Logs calls emit with each entry of the container's log, oldest first. Neither
// its monitor nor the image store is needed.
func (s *Service) Logs(ctx context.Context, ref string, o LogsOptions, emit func(logs.Entry) error) error {
	c, err := s.Find(ctx, ref)
	if err != nil {
		return err
	}
	if c.Record.LogPath == "" {
		err := errs.New(errs.Unsupported, "configured logging driver does not support reading")
		return errs.WithHint(err, "Make the container with another --log-driver than none, and without --log-opt cache-disabled.")
	}
	if !o.Follow {
		if err := s.aged(ctx, c); err != nil {
			return err
		}
	}
	return logs.Read(ctx, logs.Options{
		Path: c.Record.LogPath, Alive: filepath.Join(c.Dir, "alive"),
		Follow: o.Follow, Since: o.Since, Until: o.Until, Tail: o.Tail, CaughtUp: o.CaughtUp,
	}, emit)
}
