package system

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/units"
)

type eventsOptions struct {
	since, until, format string
	filters              []string
	stream               bool
}

// NewEvents makes "events", "system events".
func NewEvents(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:               "events [OPTIONS]",
		Short:             "Show what happens, as it happens",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log, err := e.Events()
			if err != nil {
				return err
			}
			return showEvents(cmd.Context(), s.Out, log, o, time.Now())
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "Show only what matches `KEY=VALUE`: container, image, volume, network, type, event, label")
	f.StringVar(&o.format, "format", "", "Print in a `form`: json, or a Go template")
	f.StringVar(&o.since, "since", "", "Begin with what happened at this `time`, or so long ago")
	f.StringVar(&o.until, "until", "", "End at this `time`")
	f.BoolVar(&o.stream, "stream", true, "Wait for what is still to happen")
	return cmd
}

// eventsReader is what events needs of a log.
type eventsReader interface {
	Read(ctx context.Context, o events.ReadOptions, emit func(events.Event) error) error
}

func showEvents(ctx context.Context, w io.Writer, log eventsReader, o eventsOptions, now time.Time) error {
	f, err := events.ParseFilter(o.filters)
	if err != nil {
		return err
	}
	show, err := eventPrinter(w, o.format)
	if err != nil {
		return err
	}
	ro := events.ReadOptions{Follow: o.stream}
	for _, t := range []struct {
		text string
		at   *time.Time
	}{{o.since, &ro.Since}, {o.until, &ro.Until}} {
		if t.text == "" {
			continue
		}
		if *t.at, err = units.ParseTime(t.text, now, time.Local); err != nil {
			return err
		}
	}
	switch {
	case ro.Until.IsZero():
	case ro.Since.IsZero():
		ro.Since = time.Unix(1, 0) // all that is still known, as Docker has it
	case ro.Since.After(ro.Until):
		return fmt.Errorf("`since` time (%s) cannot be after `until` time (%s)", o.since, o.until)
	}
	return log.Read(ctx, ro, func(e events.Event) error {
		if !f.Match(e) {
			return nil
		}
		return show(e)
	})
}

// eventPrinter returns what prints one event. A template that does not work is
// told before anything happens.
func eventPrinter(w io.Writer, format string) (func(events.Event) error, error) {
	if strings.TrimSpace(format) == "" {
		return func(e events.Event) error {
			_, err := io.WriteString(w, eventLine(e))
			return err
		}, nil
	}
	print := func(e events.Event, to io.Writer) error { return ui.Print(to, e.Message(), format, ui.CodeTemplate) }
	if err := print(events.Event{}, io.Discard); err != nil {
		if _, coded := errors.AsType[*ui.ExitError](err); coded {
			return nil, err
		}
		return nil, ui.Exit(ui.CodeTemplate, err)
	}
	return func(e events.Event) error { return print(e, w) }, nil
}

// eventLine is Docker's: time, kind, action, id, and the attributes by name.
func eventLine(e events.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s %s", e.Time.Local().Format("2006-01-02T15:04:05.000000000Z07:00"), e.Type, e.Action, e.ID)
	sep := " ("
	for _, k := range slices.Sorted(maps.Keys(e.Attributes)) {
		b.WriteString(sep + ui.OneLine(k+"="+e.Attributes[k]))
		sep = ", "
	}
	if len(e.Attributes) > 0 {
		b.WriteByte(')')
	}
	b.WriteByte('\n')
	return b.String()
}
