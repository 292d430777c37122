package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/events"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
)

// NewPrune makes "image prune".
func NewPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o PruneOptions
	var force, external, report bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove images without a name, or all that no container uses",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case external:
				return ui.Later("image prune --external", "'podman image prune --external' removes other tools' containers.")
			}
			o.Filters = e.PruneFilters(o.Filters)
			if _, err := o.parse(); err != nil {
				return err
			}
			if !force {
				warning := "WARNING! This will remove all dangling images."
				if o.All {
					warning = "WARNING! This will remove all images without at least one container associated to them."
				}
				ok, err := ui.Confirm(cmd.Context(), s, warning)
				if err != nil || !ok {
					return err
				}
			}
			p, err := run(cmd.Context(), e, o)
			if report {
				return errors.Join(err, json.NewEncoder(s.Out).Encode(p))
			}
			p.Print(s)
			fmt.Fprintln(s.Out, "Total reclaimed space: "+units.Size4(p.Bytes))
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.All, "all", "a", false, "Remove all images that no container uses")
	f.StringArrayVar(&o.Filters, "filter", nil, "Remove only what matches `KEY=VALUE`: until, label, label!, dangling")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.BoolVar(&report, "report", false, "Print as JSON, for the command that began this one")
	_ = f.MarkHidden("report")
	f.BoolVar(&external, "external", false, "Remove other tools' containers, too")
	f.BoolVar(&o.Cache, "build-cache", false, "Remove the build cache, too")
	return cmd
}

// run prunes where that can be done: here, or by a command of its own in the
// user's namespace, which does not ask.
func run(ctx context.Context, e *engine.Engine, o PruneOptions) (p Pruned, err error) {
	in, out, err := os.Pipe()
	if err != nil {
		return p, err
	}
	defer in.Close()
	said := make(chan []byte, 1)
	go func() {
		data, _ := io.ReadAll(in) // what is cut off is no JSON
		said <- data
	}()
	words := []string{"image", "prune", "--force", "--report", "--all=" + strconv.FormatBool(o.All), "--build-cache=" + strconv.FormatBool(o.Cache)}
	for _, f := range o.Filters {
		words = append(words, "--filter="+f)
	}
	code, entered, err := e.RunAgain(ctx, out, words...)
	if err := errors.Join(err, out.Close()); err != nil {
		return p, err
	}
	if !entered {
		return prune(ctx, e, o)
	}
	if data := <-said; len(data) > 0 {
		err = json.Unmarshal(data, &p)
	}
	return p, errors.Join(err, ended(code, nil))
}

// Prune removes images that nothing needs, and what killed processes left in the
// store.
func Prune(ctx context.Context, e *engine.Engine, o PruneOptions) (Pruned, error) {
	if _, err := o.parse(); err != nil {
		return Pruned{}, err
	}
	return run(ctx, e, o)
}

// PruneOptions say which images are to go.
type PruneOptions struct {
	All     bool
	Filters []string // KEY=VALUE: until, label, label!, dangling
	Cache   bool     // the build cache, too
}

// Pruned is what went.
type Pruned struct {
	Removed []storage.Removed
	Cache   []string // ids of records of the build cache
	Bytes   int64
}

// Print prints what went as Docker's prune does.
func (p Pruned) Print(s ui.Streams) {
	if len(p.Removed) > 0 {
		fmt.Fprintln(s.Out, "Deleted Images:")
	}
	for _, r := range p.Removed {
		if r.Untagged != "" {
			fmt.Fprintln(s.Out, "untagged:", familiar(r.Untagged))
		} else {
			fmt.Fprintln(s.Out, "deleted:", r.Deleted)
		}
	}
	if len(p.Removed) > 0 {
		fmt.Fprintln(s.Out)
	}
	if len(p.Cache) > 0 {
		fmt.Fprintln(s.Out, "Deleted build cache objects:")
		for _, id := range p.Cache {
			fmt.Fprintln(s.Out, id)
		}
		fmt.Fprintln(s.Out)
	}
}

type pruneFilter struct {
	all    bool
	until  time.Time // zero: none
	labels []string
	not    []string
}

func (o PruneOptions) parse() (pruneFilter, error) {
	f := pruneFilter{all: o.All}
	values, err := flags.Filters("--filter", o.Filters, "until", "label", "label!", "dangling")
	if err != nil {
		return f, err
	}
	for _, k := range slices.Sorted(maps.Keys(values)) {
		v := values[k]
		switch k {
		case "until":
			if len(v) > 1 {
				return f, errors.New("more than one until filter specified")
			}
			t, err := units.ParseTime(v[0], time.Now(), time.Local)
			if err != nil {
				return f, err
			}
			f.until = t
		case "label":
			f.labels = v
		case "label!":
			f.not = v
		case "dangling":
			dangling, err := parseBool(k, v)
			if err != nil {
				return f, err
			}
			f.all = !dangling
		}
	}
	return f, nil
}

// prune is Prune in a process that can change the store.
func prune(ctx context.Context, e *engine.Engine, o PruneOptions) (p Pruned, err error) {
	f, err := o.parse()
	if err != nil {
		return p, err
	}
	st, err := e.Store(ctx)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	r := st.Reader()
	collected, err := st.Collect(ctx, storage.CollectOptions{Live: e.Live})
	if err != nil {
		return p, err
	}
	p.Bytes = collected.Bytes
	var failed []error
	cache := func() {
		ids, bytes, err := pruneCache(ctx, e, o, f)
		p.Cache, p.Bytes = ids, p.Bytes+bytes
		failed = append(failed, err)
	}
	if o.Cache && o.All { // what only it keeps of images is theirs to count
		cache()
	}
	refs, err := r.Containers(ctx)
	if err != nil {
		return p, err
	}
	used := map[string]bool{}
	for _, c := range refs {
		used[c.ImageID] = true
	}
	imgs, err := r.Images(ctx)
	if err != nil {
		return p, err
	}
	parts, err := r.Listed(ctx, imgs)
	if err != nil {
		return p, err
	}
	var told []events.Event
	for _, img := range imgs {
		if used[img.ID] || parts[img.ID] || img.ReadOnly || len(img.Names) > 0 && !f.all {
			continue
		}
		if !f.until.IsZero() && !img.Created.Before(f.until) {
			continue
		}
		if len(f.labels)+len(f.not) > 0 {
			c, err := configOf(ctx, r, img)
			if err != nil {
				failed = append(failed, err)
				continue
			}
			if !hasLabels(c.Config.Labels, f.labels) || slices.ContainsFunc(f.not, func(l string) bool { return hasLabels(c.Config.Labels, []string{l}) }) {
				continue
			}
		}
		has := labels(ctx, r, img)
		removed, err := st.RemoveImage(ctx, storage.RemoveOptions{Force: true, Running: func(string) bool { return true }}, "sha256:"+img.ID)
		p.Removed = append(p.Removed, removed...)
		for _, r := range removed {
			p.Bytes += r.Bytes
		}
		told = append(told, removalEvents(img.ID, has, removed)...)
		if k := errs.KindOf(err); err != nil && k != errs.Conflict && k != errs.NotFound { // taken into use, or gone
			failed = append(failed, err)
		}
	}
	if o.Cache && !o.All { // what no image uses any longer
		cache()
	}
	told = append(told, events.Event{Type: events.Image, Action: "prune", Attributes: map[string]string{"reclaimed": fmt.Sprint(p.Bytes)}})
	e.Note(told...)
	return p, errors.Join(failed...)
}

// pruneCache removes what builds keep, unless a filter is about labels, which it
// has none of.
func pruneCache(ctx context.Context, e *engine.Engine, o PruneOptions, f pruneFilter) (ids []string, bytes int64, err error) {
	if len(f.labels) > 0 {
		return nil, 0, nil
	}
	b, err := e.Builder(engine.BuilderOptions{})
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	opts := build.PruneOptions{All: o.All}
	if !f.until.IsZero() {
		opts.Unused = time.Since(f.until)
	}
	gone, err := b.Prune(ctx, opts)
	for _, u := range gone {
		ids = append(ids, u.ID)
		bytes += u.Bytes
	}
	return ids, bytes, err
}

// removalEvents are what rmi tells of the image id, which had these labels.
func removalEvents(id string, labels map[string]string, removed []storage.Removed) []events.Event {
	var list []events.Event
	id = "sha256:" + id
	for _, r := range removed {
		switch {
		case r.Untagged != "" && !strings.Contains(r.Untagged, "@"):
			list = append(list, imageEvent("untag", id, id, labels))
		case r.Deleted == id:
			list = append(list, imageEvent("delete", id, id, labels))
		}
	}
	return list
}
