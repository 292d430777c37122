package container

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/logs"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/units"
)

// logger is what logs needs of a service.
type logger interface {
	Logs(ctx context.Context, ref string, o run.LogsOptions, emit func(logs.Entry) error) error
}

type logsOptions struct {
	run.LogsOptions
	since, until, tail  string
	timestamps, details bool
	names, color        bool
}

// NewLogs makes "logs", "container logs".
func NewLogs(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o logsOptions
	var latest bool
	cmd := &cobra.Command{
		Use:               "logs [OPTIONS] CONTAINER [CONTAINER...]",
		Short:             "Print what containers wrote",
		ValidArgsFunction: complete.Containers(e, -1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := o.parse(time.Now()); err != nil {
				return err
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			sel := selection{latest: latest}
			refs, err := sel.refs(cmd.Context(), svc, args, every)
			if err != nil {
				return err
			}
			return printLogs(cmd.Context(), s, svc, refs, o)
		},
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if latest {
			return nil
		}
		return ui.MinArgs(1)(cmd, args)
	}
	f := cmd.Flags()
	f.BoolVar(&o.details, "details", false, "Print the labels and variables that --log-opt chose")
	f.BoolVarP(&o.Follow, "follow", "f", false, "Go on until the container ends")
	f.StringVar(&o.since, "since", "", "Begin at this `time`, or so long ago (10m)")
	f.StringVar(&o.until, "until", "", "End at this `time`, or so long ago")
	f.StringVarP(&o.tail, "tail", "n", "all", "Begin with the last `n` lines")
	f.BoolVarP(&o.timestamps, "timestamps", "t", false, "Print the time before each line")
	f.BoolVar(&o.names, "names", false, "Print the container's name before each line")
	f.BoolVar(&o.color, "color", false, "Print the container's name before each line, each in a colour")
	f.BoolVarP(&latest, "latest", "l", false, "The container made last")
	return cmd
}

func (o *logsOptions) parse(now time.Time) error {
	if n, err := strconv.Atoi(o.tail); err == nil {
		o.Tail = n
	} else { // "all"; Docker takes every other word for that, too
		o.Tail = -1
	}
	for _, t := range []struct {
		name, text string
		at         *time.Time
	}{{"since", o.since, &o.Since}, {"until", o.until, &o.Until}} {
		if t.text == "" {
			continue
		}
		at, err := units.ParseTime(t.text, now, time.Local)
		if err != nil {
			return fmt.Errorf("invalid value for %q: %w", t.name, err)
		}
		*t.at = at
	}
	return nil
}

// printLogs prints the containers' logs; several that are followed are printed
// as they come.
func printLogs(ctx context.Context, s ui.Streams, svc logger, refs []string, o logsOptions) error {
	var mu sync.Mutex
	one := func(i int, ref string) error {
		name := ref
		if o.color {
			name = fmt.Sprintf("\x1b[%dm%s\x1b[0m", 31+i%6, ref) // red to cyan
		}
		p := logs.Printer{Timestamps: o.timestamps, Details: o.details}
		out := collector{s: s, mu: &mu}
		lo := o.LogsOptions
		lo.CaughtUp = out.flush
		err := svc.Logs(ctx, ref, lo, func(e logs.Entry) error {
			if err := out.room(e.Stream == "stderr"); err != nil {
				return err
			}
			if o.names || o.color {
				out.buf = append(append(out.buf, name...), ' ')
			}
			out.buf = p.Append(out.buf, e)
			return nil
		})
		return errors.Join(err, out.flush())
	}
	failed := make([]error, len(refs))
	if !o.Follow || len(refs) == 1 {
		for i, ref := range refs {
			failed[i] = one(i, ref)
		}
		return errors.Join(failed...)
	}
	var wg sync.WaitGroup
	for i, ref := range refs {
		wg.Go(func() { failed[i] = one(i, ref) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// collector writes many entries at once, each to its stream and in their order.
type collector struct {
	s      ui.Streams
	mu     *sync.Mutex // held while something is written
	buf    []byte
	stderr bool // where buf goes
}

// room makes room in buf for an entry of one of the streams.
func (c *collector) room(stderr bool) error {
	if len(c.buf) < 64<<10 && stderr == c.stderr {
		return nil
	}
	err := c.flush()
	c.stderr = stderr
	return err
}

func (c *collector) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	out := c.s.Out
	if c.stderr {
		out = c.s.Err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := out.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}
