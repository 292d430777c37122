package build

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/units"
)

// record is what the cache has, whichever part of it.
type record struct {
	build.Usage
	kept *source.Kept
}

func (r record) Reclaimable() bool { return !r.InUse }

// records lists the build cache, last used first.
func records(ctx context.Context, b *engine.Builder, dir string) ([]record, error) {
	list, err := b.Usage(ctx)
	if err != nil {
		return nil, err
	}
	var all []record
	for _, u := range list {
		all = append(all, record{Usage: u})
	}
	kept, err := source.List(dir)
	if err != nil {
		return nil, err
	}
	for i := range kept {
		k := &kept[i]
		all = append(all, record{kept: k, Usage: build.Usage{
			ID: k.ID, Type: k.Type, Description: k.Description, Created: k.Created, Used: k.Used, InUse: k.InUse, Bytes: k.Bytes,
		}})
	}
	slices.SortStableFunc(all, func(a, b record) int { return b.Used.Compare(a.Used) })
	return all, nil
}

// sourcesDir is where downloads and repositories are kept.
func sourcesDir(e *engine.Engine) (string, error) {
	p, err := e.Paths()
	return filepath.Join(p.Root, "build"), err
}

// NewPrune makes "builder prune" and "buildx prune".
func NewPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o build.PruneOptions
	var force, verbose bool
	var filters []string
	var keep, reserved, free, most int64
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove what builds have left for later ones",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.Match, o.Unused, err = build.ParseFilters(filters); err != nil {
				return err
			}
			o.Keep = max(keep, most, reserved)
			if free > 0 {
				return ui.Later("builder prune --min-free-space", "Say how much may stay: --keep-storage.")
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			if !force {
				warning := "WARNING! This will remove all dangling build cache."
				if o.All {
					warning = "WARNING! This will remove all build cache."
				}
				if ok, err := ui.Confirm(cmd.Context(), s, warning); err != nil || !ok {
					return err
				}
			}
			return prune(cmd.Context(), e, s, o, cmd.Parent() != nil && cmd.Parent().Name() == "buildx")
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Also what images are made of")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.StringArrayVar(&filters, "filter", nil, "Only what matches `KEY=VALUE`: until, id, type, description, inuse, shared, private")
	f.Var(sizeValue{&keep}, "keep-storage", "Keep this much of what was used last")
	f.Var(sizeValue{&most}, "max-used-space", "Keep this much of what was used last")
	f.Var(sizeValue{&reserved}, "reserved-space", "Keep this much of what was used last")
	f.Var(sizeValue{&free}, "min-free-space", "Not supported yet")
	f.BoolVar(&verbose, "verbose", false, "Without effect")
	f.String("builder", "", "Accepted: there is one builder")
	for _, n := range []string{"max-used-space", "reserved-space", "min-free-space", "verbose", "builder"} {
		_ = f.MarkHidden(n)
	}
	return cmd
}

func prune(ctx context.Context, e *engine.Engine, s ui.Streams, o build.PruneOptions, table bool) (err error) {
	b, err := e.Builder(engine.BuilderOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	removed, err := b.Prune(ctx, o)
	var gone []record
	for _, u := range removed {
		gone = append(gone, record{Usage: u})
	}
	if err == nil && o.Keep == 0 {
		var kept []record
		kept, err = pruneSources(e, o)
		gone = append(gone, kept...)
	}
	var total int64
	for _, r := range gone {
		total += r.Bytes
	}
	if table {
		if len(gone) > 0 {
			printRecords(s, gone)
		}
		fmt.Fprintf(s.Out, "Total:\t%s\n", units.Size(total))
		return err
	}
	if len(gone) > 0 {
		fmt.Fprintln(s.Out, "Deleted build cache objects:")
		for _, r := range gone {
			fmt.Fprintln(s.Out, r.ID)
		}
		fmt.Fprintln(s.Out)
	}
	fmt.Fprintln(s.Out, "Total reclaimed space:", units.Size(total))
	return err
}

// pruneSources removes repositories and downloads that nobody uses.
func pruneSources(e *engine.Engine, o build.PruneOptions) ([]record, error) {
	dir, err := sourcesDir(e)
	if err != nil {
		return nil, err
	}
	list, err := source.List(dir)
	if err != nil {
		return nil, err
	}
	var gone []record
	for i := range list {
		k := &list[i]
		r := record{kept: k, Usage: build.Usage{ID: k.ID, Type: k.Type, Description: k.Description, Used: k.Used, InUse: k.InUse, Bytes: k.Bytes}}
		if k.InUse || time.Since(k.Used) < o.Unused || o.Match != nil && !o.Match(r.Usage) {
			continue
		}
		removed, err := k.Remove()
		if err != nil {
			return gone, err
		}
		if removed {
			gone = append(gone, r)
		}
	}
	return gone, nil
}

func printRecords(s ui.Streams, list []record) {
	w := ui.NewTabWriter(s.Out)
	fmt.Fprintln(w, "ID\tRECLAIMABLE\tSIZE\tLAST ACCESSED")
	for _, r := range list {
		mark := ""
		if r.Shared {
			mark = "*"
		}
		fmt.Fprintf(w, "%s%s\t%v\t%s\t%s\n", r.ID, mark, r.Reclaimable(), units.Size(r.Bytes), ago(r.Used))
	}
	w.Flush()
}

func ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return units.Ago(t, time.Now())
}

// usageRow is a record as --format shows it.
type usageRow struct {
	ID, Type, Description, Size, CreatedAt, LastUsedAt string
	Parents                                            []string
	InUse, Shared, Reclaimable, Mutable                bool
}

// NewDu makes "builder du" and "buildx du".
func NewDu(e *engine.Engine, s ui.Streams) *cobra.Command {
	var verbose bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:               "du [OPTIONS]",
		Short:             "Show what builds have left for later ones",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			match, unused, err := build.ParseFilters(filters)
			if err != nil {
				return err
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			dir, err := sourcesDir(e)
			if err != nil {
				return err
			}
			b, err := e.Builder(engine.BuilderOptions{})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.Close()) }()
			list, err := records(cmd.Context(), b, dir)
			if err != nil {
				return err
			}
			list = slices.DeleteFunc(list, func(r record) bool { return !match(r.Usage) || time.Since(r.Used) < unused })
			return showUsage(s, list, verbose, format)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&verbose, "verbose", false, "Show all that is known of each")
	f.StringVar(&format, "format", "", "Print in this `format`: json, or a template")
	f.StringArrayVar(&filters, "filter", nil, "Only what matches `KEY=VALUE`")
	f.String("builder", "", "Accepted: there is one builder")
	_ = f.MarkHidden("builder")
	return cmd
}

func showUsage(s ui.Streams, list []record, verbose bool, format string) error {
	var total, reclaimable, shared int64
	for _, r := range list {
		total += r.Bytes
		if r.Reclaimable() {
			reclaimable += r.Bytes
		}
		if r.Shared {
			shared += r.Bytes
		}
	}
	switch {
	case format != "" && format != "table":
		for _, r := range list {
			row := usageRow{
				ID: r.ID, Type: r.Type, Description: r.Description, Size: units.Size(r.Bytes), Parents: r.Parents, InUse: r.InUse,
				CreatedAt: r.Created.Format(time.RFC3339), LastUsedAt: r.Used.Format(time.RFC3339), Shared: r.Shared, Reclaimable: r.Reclaimable(),
			}
			if err := ui.Print(s.Out, row, format, ui.CodeTemplate); err != nil {
				return err
			}
		}
		return nil
	case verbose:
		for _, r := range list {
			w := ui.NewTabWriter(s.Out)
			fmt.Fprintf(w, "ID:\t%s\n", r.ID)
			if len(r.Parents) > 0 {
				fmt.Fprintf(w, "Parent:\t%s\n", strings.Join(r.Parents, ";"))
			}
			fmt.Fprintf(w, "Created at:\t%s\nReclaimable:\t%v\nShared:\t%v\nSize:\t%s\nDescription:\t%s\nLast used:\t%s\nType:\t%s\n\n",
				r.Created.UTC(), r.Reclaimable(), r.Shared, units.Size(r.Bytes), r.Description, ago(r.Used), r.Type)
			w.Flush()
		}
	case len(list) > 0:
		printRecords(s, list)
	}
	if shared > 0 {
		fmt.Fprintf(s.Out, "Shared:\t\t%s\nPrivate:\t%s\n", units.Size(shared), units.Size(total-shared))
	}
	fmt.Fprintf(s.Out, "Reclaimable:\t%s\nTotal:\t\t%s\n", units.Size(reclaimable), units.Size(total))
	return nil
}
