// Package image holds the commands about images.
package image

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
)

// lister is what listing needs of the store.
type lister interface {
	Images(ctx context.Context) ([]*storage.Image, error)
	engine.Finder
	Config(ctx context.Context, img *storage.Image) ([]byte, error)
	Manifest(ctx context.Context, img *storage.Image) ([]byte, error)
	Sizes(ctx context.Context, imgs ...*storage.Image) (map[string]int64, error)
	Seen() (*storage.Seen, error)
	Listed(ctx context.Context, imgs []*storage.Image) (map[string]bool, error)
}

type listOptions struct {
	all, digests, noTrunc bool
	tree                  bool
	filters               []string
	table                 ui.TableOptions
	pattern               string
	sort                  string
	now                   time.Time
}

// NewImages makes "images", "image ls".
func NewImages(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o listOptions
	cmd := &cobra.Command{
		Use:               "images [OPTIONS] [REPOSITORY[:TAG]]",
		Short:             "List images",
		Args:              ui.MaxArgs(1),
		ValidArgsFunction: complete.Images(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, name := range []string{"quiet", "no-trunc", "digests", "format"} {
				if o.tree && cmd.Flags().Changed(name) {
					return errs.New(errs.Invalid, "--"+name+" is not supported with --tree")
				}
			}
			if len(args) > 0 {
				o.pattern = args[0]
			}
			if !cmd.Flags().Changed("format") && !o.table.Quiet {
				o.table.Format = e.ClientFormat("imagesFormat")
			}
			o.now = time.Now()
			r, err := e.Reader()
			if err != nil {
				return err
			}
			return list(cmd.Context(), s, r, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Show intermediate images too")
	f.BoolVar(&o.digests, "digests", false, "Show digests")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "Show only what matches `KEY=VALUE`: dangling, label, before, since, reference, until, id, digest, readonly")
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, raw, or a Go template")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not shorten ids")
	f.StringVar(&o.sort, "sort", "", "Sort by created, id, repository, size or tag")
	f.BoolVarP(&o.table.NoHeading, "noheading", "n", false, "Leave the table's header out")
	f.BoolVarP(&o.table.Quiet, "quiet", "q", false, "Print ids only")
	f.BoolVar(&o.tree, "tree", false, "List the platform that is here of each image, and what a registry keeps of it")
	return cmd
}

// row is one line: an image, by one of its names.
type row struct {
	img               *storage.Image
	repo, tag, digest string
	size              int64
	labels            map[string]string // if they are shown
}

const none = "<none>"

func imageTable(o listOptions) ui.Table[row] {
	id := func(r row) any {
		if o.noTrunc {
			return "sha256:" + r.img.ID
		}
		return ui.ShortID(r.img.ID)
	}
	unknown := func(row) any { return "N/A" }
	t := ui.Table[row]{
		Type: "*formatter.imageContext",
		Fields: []ui.Field[row]{
			{Name: "ID", Header: "IMAGE ID", Value: id},
			{Name: "Repository", Header: "REPOSITORY", Value: func(r row) any { return r.repo }},
			{Name: "Tag", Header: "TAG", Value: func(r row) any { return r.tag }},
			{Name: "Digest", Header: "DIGEST", Value: func(r row) any { return r.digest }},
			{Name: "CreatedSince", Header: "CREATED", Value: func(r row) any { return units.Ago(known(r.img.Created), o.now) }},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(r row) any { return createdAt(r.img.Created) }},
			{Name: "Size", Header: "SIZE", Value: func(r row) any { return units.Size(r.size) }},
			{Name: "Containers", Header: "CONTAINERS", Value: unknown},
			{Name: "VirtualSize", Header: "SIZE", Value: func(r row) any { return units.Size(r.size) }},
			{Name: "SharedSize", Header: "SHARED SIZE", Value: unknown},
			{Name: "UniqueSize", Header: "UNIQUE SIZE", Value: unknown},
			{Name: "Id", Header: "IMAGE ID", Value: id, Extra: true},
			{Name: "Created", Header: "CREATED", Value: func(r row) any { return units.Ago(known(r.img.Created), o.now) }, Extra: true},
			{Name: "Labels", Header: "LABELS", Value: func(r row) any { return r.labels }, Extra: true},
			{Name: "Names", Header: "NAMES", Value: func(r row) any { return r.img.Names }, Extra: true},
			{Name: "RepoTags", Header: "REPO TAGS", Value: func(r row) any { return r.img.Names }, Extra: true},
			{Name: "History", Header: "HISTORY", Value: func(r row) any { return strings.Join(r.img.History, ", ") }, Extra: true},
			{Name: "ReadOnly", Header: "READONLY", Value: func(r row) any { return r.img.ReadOnly }, Extra: true},
		},
		Columns: []string{"Repository", "Tag", "ID", "CreatedSince", "Size"},
		Quiet:   "ID",
		Raw: []ui.RawField{
			{Key: "repository", Name: "Repository"}, {Key: "tag", Name: "Tag"}, {Key: "image_id", Name: "ID"},
			{Key: "created_at", Name: "CreatedAt"}, {Key: "virtual_size", Name: "Size"},
		},
	}
	if o.digests {
		t.Columns = []string{"Repository", "Tag", "Digest", "ID", "CreatedSince", "Size"}
		t.Raw = slices.Insert(t.Raw, 2, ui.RawField{Key: "digest", Name: "Digest"})
	}
	return t
}

// known is zero for the moments that reproducible builds put in.
func known(created time.Time) time.Time {
	if created.Unix() <= 0 {
		return time.Time{}
	}
	return created
}

func createdAt(created time.Time) string {
	if known(created).IsZero() {
		return "N/A"
	}
	return created.Local().Format(ui.TimeLayout)
}

// list prints the images that the options choose, newest first, one row per
// tag.
func list(ctx context.Context, s ui.Streams, r lister, o listOptions) error {
	t := imageTable(o)
	f, err := parseFilters(o.filters)
	if err != nil {
		return err
	}
	if o.pattern != "" {
		f["reference"] = append(f["reference"], o.pattern)
	}
	imgs, err := r.Images(ctx)
	if err != nil {
		return err
	}
	if !o.all {
		parts, err := r.Listed(ctx, imgs)
		if err != nil {
			return err
		}
		imgs = slices.DeleteFunc(imgs, func(i *storage.Image) bool { return parts[i.ID] })
	}
	slices.SortStableFunc(imgs, func(a, b *storage.Image) int { return b.Created.Compare(a.Created) })
	if imgs, err = choose(ctx, r, imgs, f, o.now); err != nil {
		return err
	}
	needDigest := o.digests || o.table.Format != "" && t.Uses(o.table, "Digest")
	seen := &storage.Seen{}
	if needDigest {
		if seen, err = r.Seen(); err != nil {
			return err
		}
	}
	var rows []row
	for _, img := range imgs {
		rows = append(rows, rowsOf(img, seen, f["reference"], needDigest)...)
	}
	if o.sort == "size" || o.tree || t.Uses(o.table, "Size") || t.Uses(o.table, "VirtualSize") {
		// Only now, and only if it is shown: sizes need the list of layers.
		sizes, err := r.Sizes(ctx, imgs...)
		if err != nil {
			return err
		}
		for i := range rows {
			rows[i].size = sizes[rows[i].img.ID]
		}
	}
	if t.Uses(o.table, "Labels") && o.table.Format != "json" {
		for i := range rows {
			c, err := configOf(ctx, r, rows[i].img)
			if err != nil {
				return err
			}
			if rows[i].labels = c.Config.Labels; rows[i].labels == nil {
				rows[i].labels = map[string]string{}
			}
		}
	}
	if err := sortRows(rows, o.sort); err != nil {
		return err
	}
	if o.tree {
		return writeTree(ctx, s, r, rows)
	}
	return t.Write(s.Out, rows, o.table)
}

// branch is a line of --tree: a name, or beneath it the platform of its image.
type branch struct {
	name, id      string
	size, content int64
}

// writeTree writes the images as Docker's experimental --tree does. Of what has
// several platforms the store has the one that was pulled.
func writeTree(ctx context.Context, s ui.Streams, r lister, rows []row) error {
	var all []branch
	for _, row := range rows {
		c, err := configOf(ctx, r, row.img)
		if err != nil {
			return err
		}
		data, err := r.Manifest(ctx, row.img)
		if err != nil {
			return err
		}
		b := branch{name: row.repo + ":" + row.tag, id: ui.ShortID(row.img.ID), size: row.size}
		if m, _, err := oci.ParseManifest(data, ""); err == nil && m != nil {
			b.content = int64(len(data)) + m.Config.Size
			for _, l := range m.Layers {
				b.content += l.Size
			}
		}
		all = append(all, b)
		if !row.img.IsList() {
			b.name = "└─ " + c.Platform.Normalize().String()
			all = append(all, b)
		}
	}
	t := ui.Table[branch]{Columns: []string{"Image", "ID", "DiskUsage", "ContentSize"}, Fields: []ui.Field[branch]{
		{Name: "Image", Header: "IMAGE", Value: func(b branch) any { return b.name }},
		{Name: "ID", Header: "ID", Value: func(b branch) any { return b.id }},
		{Name: "DiskUsage", Header: "DISK USAGE", Value: func(b branch) any { return units.Size(b.size) }},
		{Name: "ContentSize", Header: "CONTENT SIZE", Value: func(b branch) any { return units.Size(b.content) }},
	}}
	return t.Write(s.Out, all, ui.TableOptions{})
}

// sortRows puts the rows into the order of --sort; they come newest first.
func sortRows(rows []row, by string) error {
	var less func(a, b row) int
	switch by {
	case "", "created":
		return nil
	case "id":
		less = func(a, b row) int { return cmp.Compare(a.img.ID, b.img.ID) }
	case "repository":
		less = func(a, b row) int { return cmp.Or(cmp.Compare(a.repo, b.repo), cmp.Compare(a.tag, b.tag)) }
	case "tag":
		less = func(a, b row) int { return cmp.Compare(a.tag, b.tag) }
	case "size":
		less = func(a, b row) int { return cmp.Compare(a.size, b.size) }
	default:
		return ui.Exit(ui.CodeUsage, fmt.Errorf("unknown --sort %q: want created, id, repository, size or tag", by))
	}
	slices.SortStableFunc(rows, less)
	return nil
}

// rowsOf are the rows of one image: its tags, each with every digest of its
// repository if digests are shown, and then the repositories that it has only
// digests of.
func rowsOf(img *storage.Image, seen *storage.Seen, patterns []string, needDigest bool) []row {
	type repo struct {
		name          string
		tags, digests []string
		chosen        bool
	}
	var repos []*repo
	find := func(name string) *repo {
		for _, r := range repos {
			if r.name == name {
				return r
			}
		}
		repos = append(repos, &repo{name: name})
		return repos[len(repos)-1]
	}
	for _, name := range append(slices.Clone(img.Names), seen.RepoDigests(img)...) {
		ref, err := oci.Parse(name)
		if err != nil {
			continue
		}
		r, chosen := find(ref.FamiliarName()), matchesAny(ref, patterns)
		r.chosen = r.chosen || chosen
		switch {
		case ref.Digest != "": // shown beside the tags that were chosen
			r.digests = append(r.digests, ref.Digest)
		case chosen:
			r.tags = append(r.tags, ref.WithDefaultTag().Tag)
		}
	}
	repos = slices.DeleteFunc(repos, func(r *repo) bool { return !r.chosen })
	if len(repos) == 0 {
		return []row{{img: img, repo: none, tag: none, digest: none}}
	}
	slices.SortStableFunc(repos, func(a, b *repo) int { return cmp.Compare(a.name, b.name) })
	var rows []row
	for _, r := range repos {
		digests := r.digests
		if !needDigest || len(digests) == 0 {
			digests = []string{none}
		}
		tags := r.tags
		if len(tags) == 0 {
			tags = []string{none}
		}
		for _, tag := range tags {
			for _, d := range digests {
				rows = append(rows, row{img: img, repo: r.name, tag: tag, digest: d})
			}
		}
	}
	return rows
}

// configOf reads an image's config document.
func configOf(ctx context.Context, r interface {
	Config(ctx context.Context, img *storage.Image) ([]byte, error)
}, img *storage.Image) (oci.Image, error) {
	var c oci.Image
	if img.IsList() {
		return c, nil // it has none
	}
	data, err := r.Config(ctx, img)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(data, &c); err != nil {
		return c, fmt.Errorf("read the config of image %s: %w", strings.Join(img.Names, ", "), err)
	}
	return c, nil
}
