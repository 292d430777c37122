package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/units"
)

// meter is what stats needs of a service.
type meter interface {
	lister
	Find(ctx context.Context, ref string) (*container.Container, error)
	Usage(c *container.Container) run.Usage
	CPUUsage(c *container.Container) run.Usage
}

type statsOptions struct {
	all, once, noTrunc, noReset bool
	interval                    int
	table                       ui.TableOptions
}

// NewStats makes "stats", "container stats".
func NewStats(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o statsOptions
	cmd := &cobra.Command{
		Use:               "stats [OPTIONS] [CONTAINER...]",
		Short:             "Show what containers use, again and again",
		ValidArgsFunction: complete.Containers(e, -1, running),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("format") {
				o.table.Format = e.ClientFormat("statsFormat")
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			return stats(cmd.Context(), s, svc, args, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show stopped containers too")
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, or a Go template")
	f.BoolVar(&o.once, "no-stream", false, "Print once")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not shorten anything")
	f.BoolVar(&o.noReset, "no-reset", false, "Do not clear the screen between two prints")
	f.IntVarP(&o.interval, "interval", "i", 1, "Print every `n` seconds")
	return cmd
}

// usageRow is a line of stats.
type usageRow struct {
	typed string // as the user named it
	c     *container.Container
	known bool // it runs, and has been measured twice
	cpu   float64
	now   run.Usage
	limit uint64 // of its memory
}

func statsTable(o statsOptions) ui.Table[usageRow] {
	known := func(v func(usageRow) string, otherwise string) func(usageRow) any {
		return func(r usageRow) any {
			if !r.known {
				return otherwise
			}
			return v(r)
		}
	}
	pair := func(a, b uint64) string {
		return units.Size(int64(a)) + " / " + units.Size(int64(b))
	}
	id := func(r usageRow) any {
		if o.noTrunc {
			return r.c.ID
		}
		return container.ShortID(r.c.ID)
	}
	return ui.Table[usageRow]{
		Type: "*container.statsContext",
		Fields: []ui.Field[usageRow]{
			{Name: "Container", Header: "CONTAINER", Value: func(r usageRow) any { return r.typed }},
			{Name: "Name", Header: "NAME", Value: func(r usageRow) any { return r.c.Name() }},
			{Name: "ID", Header: "CONTAINER ID", Value: id},
			{Name: "CPUPerc", Header: "CPU %", Value: known(func(r usageRow) string { return fmt.Sprintf("%.2f%%", r.cpu) }, "--")},
			{Name: "MemUsage", Header: "MEM USAGE / LIMIT", Value: known(func(r usageRow) string {
				return units.BinarySize(int64(r.now.MemoryBytes)) + " / " + units.BinarySize(int64(r.limit))
			}, "-- / --")},
			{Name: "MemPerc", Header: "MEM %", Value: known(func(r usageRow) string {
				if r.limit == 0 {
					return "0.00%"
				}
				return fmt.Sprintf("%.2f%%", float64(r.now.MemoryBytes)/float64(r.limit)*100)
			}, "--")},
			{Name: "NetIO", Header: "NET I/O", Value: known(func(r usageRow) string { return pair(r.now.NetRx, r.now.NetTx) }, "--")},
			{Name: "BlockIO", Header: "BLOCK I/O", Value: known(func(r usageRow) string { return pair(r.now.BlockRead, r.now.BlockWr) }, "--")},
			{Name: "PIDs", Header: "PIDS", Value: known(func(r usageRow) string { return strconv.FormatUint(r.now.Pids, 10) }, "--")},
		},
		Columns: []string{"ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"},
	}
}

// between is how long a single measurement of processor time takes.
const between = 300 * time.Millisecond

// stats measures until ctx ends or, without names, for ever; once with
// --no-stream.
func stats(ctx context.Context, s ui.Streams, svc meter, refs []string, o statsOptions) error {
	if o.interval < 1 {
		return ui.Exit(ui.CodeUsage, errors.New("invalid interval, must be a positive number greater zero"))
	}
	t := statsTable(o)
	if err := t.Write(io.Discard, nil, o.table); err != nil {
		return err
	}
	m := measuring{svc: svc, refs: refs, all: o.all, memory: memTotal(), before: map[string]run.Usage{}}
	if _, err := m.rows(ctx, svc.CPUUsage); err != nil {
		return err
	}
	for pause := between; ; pause = time.Duration(o.interval) * time.Second {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		rows, err := m.rows(ctx, svc.Usage)
		if err != nil {
			return err
		}
		// All at once: half a screen would flicker.
		var b bytes.Buffer
		if !o.once && !o.noReset && s.OutTerminal() {
			b.WriteString("\033[2J\033[H")
		}
		if err := t.Write(&b, rows, o.table); err != nil {
			return err
		}
		if _, err := b.WriteTo(s.Out); err != nil || o.once {
			return err
		}
	}
}

// measuring is a series of measurements.
type measuring struct {
	svc    meter
	refs   []string
	all    bool
	memory uint64
	before map[string]run.Usage // the last ones, by id
}

// rows measures the containers that are meant now.
func (m *measuring) rows(ctx context.Context, usage func(*container.Container) run.Usage) ([]usageRow, error) {
	var rows []usageRow
	if len(m.refs) == 0 {
		all, err := m.svc.List(ctx)
		if err != nil && len(all) == 0 {
			return nil, err
		}
		for _, c := range all {
			if m.all || c.Running() {
				rows = append(rows, usageRow{typed: container.ShortID(c.ID), c: c})
			}
		}
	}
	for _, ref := range m.refs {
		c, err := m.svc.Find(ctx, ref)
		if err != nil {
			return nil, err
		}
		rows = append(rows, usageRow{typed: ref, c: c})
	}
	for i := range rows {
		m.measure(&rows[i], usage)
	}
	return rows, nil
}

func (m *measuring) measure(r *usageRow, usage func(*container.Container) run.Usage) {
	if !r.c.Running() {
		delete(m.before, r.c.ID)
		return
	}
	r.now = usage(r.c)
	if last, ok := m.before[r.c.ID]; ok && r.now.CPUNanos >= last.CPUNanos {
		// Of one processor: two that are busy are 200%.
		if d := r.now.At.Sub(last.At); d > 0 {
			r.cpu = float64(r.now.CPUNanos-last.CPUNanos) / float64(d) * 100
		}
		r.known = true
	}
	r.cpu = min(r.cpu, float64(runtime.NumCPU())*100)
	m.before[r.c.ID] = r.now
	r.limit = r.now.MemoryLimit
	if r.limit == 0 || r.limit > m.memory && m.memory > 0 {
		r.limit = m.memory
	}
}

// memTotal is this machine's memory in bytes; 0 if unknown.
func memTotal() uint64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "MemTotal:" {
			kb, _ := strconv.ParseUint(f[1], 10, 64) // the kernel wrote it
			return kb << 10
		}
	}
	return 0
}
