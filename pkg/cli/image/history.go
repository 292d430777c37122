package image

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
)

// step is one line of an image's history.
type step struct {
	tags    []string // the image's own names; only of the last step
	id      string   // hex; empty: not known
	created time.Time
	by      string
	size    int64
	comment string
}

type historyOptions struct {
	human, noTrunc bool
	table          ui.TableOptions
	now            time.Time
}

// NewHistory makes "history", "image history".
func NewHistory(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o historyOptions
	var platform string
	cmd := &cobra.Command{
		Use:               "history [OPTIONS] IMAGE",
		Short:             "Show the steps that an image was made by",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Images(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := e.Reader()
			if err != nil {
				return err
			}
			img, err := findImage(cmd.Context(), r, args[0])
			if err != nil {
				return err
			}
			if platform != "" {
				ref, _, _ := strings.Cut(args[0], "@")
				if err := matchPlatform(cmd.Context(), r, img, reference(ref), platform); err != nil {
					return err
				}
			}
			steps, err := history(cmd.Context(), r, img)
			if err != nil {
				return err
			}
			o.now = time.Now()
			return historyTable(o).Write(s.Out, steps, o.table)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, or a Go template")
	f.BoolVarP(&o.human, "human", "H", true, "Print sizes and times for people")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not shorten")
	f.StringVar(&platform, "platform", "", "Show the history of this `platform`'s image")
	f.BoolVarP(&o.table.Quiet, "quiet", "q", false, "Print ids only")
	return cmd
}

// history returns an image's steps, the last first.
func history(ctx context.Context, r *storage.Reader, img *storage.Image) ([]step, error) {
	c, err := configOf(ctx, r, img)
	if err != nil {
		return nil, err
	}
	layers, err := r.Layers(ctx, img)
	if err != nil {
		return nil, err
	}
	slices.Reverse(layers) // bottom first, as the history is
	var steps []step
	next := 0
	for _, h := range c.History {
		st := step{created: h.Created, by: h.CreatedBy, comment: h.Comment}
		if !h.EmptyLayer && next < len(layers) {
			st.size = max(layers[next].Size, 0)
			next++
		}
		steps = append(steps, st)
	}
	for ; next < len(layers); next++ { // the document says less than there is
		steps = append(steps, step{created: c.Created, size: max(layers[next].Size, 0)})
	}
	slices.Reverse(steps)
	if len(steps) > 0 {
		steps[0].id, steps[0].tags = img.ID, img.Names
	}
	return steps, nil
}

func historyTable(o historyOptions) ui.Table[step] {
	created := "CreatedSince"
	if !o.human {
		created = "CreatedAt"
	}
	t := ui.Table[step]{
		Type: "*formatter.historyContext",
		Fields: []ui.Field[step]{
			{Name: "ID", Header: "IMAGE", Value: func(r step) any {
				switch {
				case r.id == "":
					return "<missing>"
				case o.noTrunc:
					return "sha256:" + r.id
				}
				return ui.ShortID(r.id)
			}},
			{Name: "CreatedSince", Header: "CREATED", Value: func(r step) any {
				if !o.human {
					return moment(r.created)
				}
				return units.Ago(known(r.created), o.now)
			}},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(r step) any { return moment(r.created) }},
			{Name: "Created", Header: "CREATED", Extra: true, Value: func(r step) any { return units.Ago(known(r.created), o.now) }},
			{Name: "Tags", Header: "TAGS", Extra: true, Value: func(r step) any { return r.tags }},
			{Name: "CreatedBy", Header: "CREATED BY", Value: func(r step) any {
				by := strings.ReplaceAll(r.by, "\t", " ")
				if o.noTrunc {
					return by
				}
				return ui.Ellipsis(by, 45)
			}},
			{Name: "Size", Header: "SIZE", Value: func(r step) any {
				if !o.human {
					return strconv.FormatInt(r.size, 10)
				}
				return units.Size(r.size)
			}},
			{Name: "Comment", Header: "COMMENT", Value: func(r step) any { return r.comment }},
		},
		Columns: []string{"ID", created, "CreatedBy", "Size", "Comment"},
		Quiet:   "ID",
	}
	return t
}

func moment(t time.Time) string {
	if known(t).IsZero() {
		return "N/A"
	}
	return t.Local().Format(time.RFC3339)
}
