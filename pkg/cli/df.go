package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	cache "cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/container"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
)

// space is one line of "system df".
type space struct {
	kind              string
	total, active     int
	size, reclaimable int64
	percent           bool // the last is told as a part, too
}

// containerSpace is what one container takes.
type containerSpace struct {
	id, image, command, status, name string
	volumes                          int
	size                             int64
	created                          time.Time
	alive                            bool
}

// newDf makes "system df".
func newDf(e *engine.Engine, s ui.Streams) *cobra.Command {
	var verbose bool
	var o ui.TableOptions
	cmd := &cobra.Command{
		Use:               "df [OPTIONS]",
		Short:             "Show what images, containers and volumes take on the disk",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return inside(code, err)
			}
			d, err := diskUsage(cmd.Context(), e)
			if err != nil {
				return err
			}
			if verbose {
				return d.verbose(s, o)
			}
			return spaceTable().Write(s.Out, d.lines(), o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, or a Go template")
	f.BoolVarP(&verbose, "verbose", "v", false, "Show each image, container and volume")
	return cmd
}

// inside is how a command ends that has run in the user's namespace.
func inside(code int, err error) error {
	if err != nil {
		return err
	}
	if code != 0 {
		return &ui.ExitError{Code: code}
	}
	return nil
}

// diskUse is all that df shows.
type diskUse struct {
	images     *storage.Usage
	containers []containerSpace
	volumes    []volumeSpace
	cache      []cache.Usage
	now        time.Time
}

// volumeSpace is what one volume takes.
type volumeSpace struct {
	name  string
	links int
	size  int64
}

func diskUsage(ctx context.Context, e *engine.Engine) (*diskUse, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	d := &diskUse{now: time.Now()}
	if d.images, err = r.Usage(ctx); err != nil {
		return nil, err
	}
	svc, err := e.Containers()
	if err != nil {
		return nil, err
	}
	list, err := svc.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range list {
		size, err := container.Size(ctx, c)
		if err != nil {
			return nil, err
		}
		d.containers = append(d.containers, containerSpace{
			id: c.ID, image: c.Record.ImageRef, command: docker.Command(c.Record), name: c.Name(), size: size,
			created: c.Record.Created, alive: c.Alive, status: container.Status(c, d.now), volumes: len(c.Record.Volumes),
		})
	}
	users, err := svc.VolumeUsers(ctx)
	if err != nil {
		return nil, err
	}
	vols, err := svc.Volumes().List()
	if err != nil {
		return nil, err
	}
	for _, v := range vols {
		size, err := svc.VolumeSize(ctx, v.Name)
		if err != nil {
			return nil, err
		}
		d.volumes = append(d.volumes, volumeSpace{v.Name, len(users[v.Name]), size})
	}
	b, err := e.Builder(engine.BuilderOptions{})
	if err != nil {
		return nil, err
	}
	d.cache, err = b.Usage(ctx)
	if err = errors.Join(err, b.Close()); err != nil {
		return nil, err
	}
	slices.SortStableFunc(d.containers, func(a, b containerSpace) int { return b.created.Compare(a.created) })
	return d, nil
}

// lines are the summary.
func (d *diskUse) lines() []space {
	images := space{"Images", len(d.images.Images), d.images.Active, d.images.Size, d.images.Reclaimable, true}
	containers := space{kind: "Containers", total: len(d.containers), percent: true}
	for _, c := range d.containers {
		containers.size += c.size
		if c.alive {
			containers.active++
		} else {
			containers.reclaimable += c.size
		}
	}
	volumes := space{kind: "Local Volumes", total: len(d.volumes), percent: true}
	for _, v := range d.volumes {
		volumes.size += v.size
		if v.links > 0 {
			volumes.active++
		} else {
			volumes.reclaimable += v.size
		}
	}
	built := space{kind: "Build Cache", total: len(d.cache)}
	for _, u := range d.cache {
		if u.InUse {
			built.active++
		}
		if u.Shared {
			continue // an image's
		}
		built.size += u.Bytes
		if !u.InUse {
			built.reclaimable += u.Bytes
		}
	}
	all := []space{images, containers, volumes, built}
	if d.images.Unreferenced > 0 {
		all = append(all, space{kind: "Unreferenced", total: d.images.Unreferenced, size: d.images.Lost, reclaimable: d.images.Lost, percent: true})
	}
	return all
}

func spaceTable() ui.Table[space] {
	return ui.Table[space]{
		Type: "*formatter.diskUsageContext",
		Fields: []ui.Field[space]{
			{Name: "Type", Header: "TYPE", Value: func(r space) any { return r.kind }},
			{Name: "TotalCount", Header: "TOTAL", Value: func(r space) any { return strconv.Itoa(r.total) }},
			{Name: "Active", Header: "ACTIVE", Value: func(r space) any { return strconv.Itoa(r.active) }},
			{Name: "Size", Header: "SIZE", Value: func(r space) any { return units.Size4(r.size) }},
			{Name: "Reclaimable", Header: "RECLAIMABLE", Value: func(r space) any {
				if !r.percent || r.size == 0 {
					return units.Size4(r.reclaimable)
				}
				return fmt.Sprintf("%s (%d%%)", units.Size4(r.reclaimable), r.reclaimable*100/r.size)
			}},
		},
		Columns: []string{"Type", "TotalCount", "Active", "Size", "Reclaimable"},
	}
}

// imageSpace is one image, by one of its names.
type imageSpace struct {
	repo, tag string
	storage.ImageUsage
}

// imageRows are the images' rows, newest first.
func (d *diskUse) imageRows() []imageSpace {
	var rows []imageSpace
	list := slices.Clone(d.images.Images)
	slices.SortStableFunc(list, func(a, b storage.ImageUsage) int { return b.Created.Compare(a.Created) })
	for _, img := range list {
		named := false
		for _, n := range img.Names {
			if ref, err := oci.Parse(n); err == nil && ref.Digest == "" {
				rows = append(rows, imageSpace{ref.FamiliarName(), ref.WithDefaultTag().Tag, img})
				named = true
			}
		}
		if !named {
			rows = append(rows, imageSpace{"<none>", "<none>", img})
		}
	}
	return rows
}

func (d *diskUse) imageTable() ui.Table[imageSpace] {
	return ui.Table[imageSpace]{
		Fields: []ui.Field[imageSpace]{
			{Name: "Repository", Header: "REPOSITORY", Value: func(r imageSpace) any { return r.repo }},
			{Name: "Tag", Header: "TAG", Value: func(r imageSpace) any { return r.tag }},
			{Name: "ID", Header: "IMAGE ID", Value: func(r imageSpace) any { return ui.ShortID(r.ID) }},
			{Name: "CreatedSince", Header: "CREATED", Value: func(r imageSpace) any { return units.Ago(r.Created, d.now) }},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(r imageSpace) any { return r.Created.Local().Format(ui.TimeLayout) }},
			{Name: "Size", Header: "SIZE", Value: func(r imageSpace) any { return units.Size(r.Size) }},
			{Name: "SharedSize", Header: "SHARED SIZE", Value: func(r imageSpace) any { return units.Size4(r.Shared) }},
			{Name: "UniqueSize", Header: "UNIQUE SIZE", Value: func(r imageSpace) any { return units.Size4(r.Unique()) }},
			{Name: "Containers", Header: "CONTAINERS", Value: func(r imageSpace) any { return strconv.Itoa(r.ImageUsage.Containers) }},
		},
		Columns: []string{"Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers"},
	}
}

func (d *diskUse) containerTable() ui.Table[containerSpace] {
	return ui.Table[containerSpace]{
		Fields: []ui.Field[containerSpace]{
			{Name: "ID", Header: "CONTAINER ID", Value: func(c containerSpace) any { return ui.ShortID(c.id) }},
			{Name: "Image", Header: "IMAGE", Value: func(c containerSpace) any { return c.image }},
			{Name: "Command", Header: "COMMAND", Value: func(c containerSpace) any { return strconv.Quote(ui.Ellipsis(c.command, 20)) }},
			{Name: "LocalVolumes", Header: "LOCAL VOLUMES", Value: func(c containerSpace) any { return strconv.Itoa(c.volumes) }},
			{Name: "Size", Header: "SIZE", Value: func(c containerSpace) any { return units.Size(c.size) }},
			{Name: "RunningFor", Header: "CREATED", Value: func(c containerSpace) any { return units.Ago(c.created, d.now) }},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(c containerSpace) any { return c.created.Local().Format(ui.TimeLayout) }},
			{Name: "Status", Header: "STATUS", Value: func(c containerSpace) any { return c.status }},
			{Name: "Names", Header: "NAMES", Value: func(c containerSpace) any { return c.name }},
		},
		Columns: []string{"ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names"},
	}
}

func volumeTable() ui.Table[volumeSpace] {
	return ui.Table[volumeSpace]{
		Fields: []ui.Field[volumeSpace]{
			{Name: "Name", Header: "VOLUME NAME", Value: func(v volumeSpace) any { return v.name }},
			{Name: "Links", Header: "LINKS", Value: func(v volumeSpace) any { return strconv.Itoa(v.links) }},
			{Name: "Size", Header: "SIZE", Value: func(v volumeSpace) any { return units.Size(v.size) }},
		},
		Columns: []string{"Name", "Links", "Size"},
	}
}

func (d *diskUse) cacheTable() ui.Table[cache.Usage] {
	return ui.Table[cache.Usage]{
		Fields: []ui.Field[cache.Usage]{
			{Name: "ID", Header: "CACHE ID", Value: func(u cache.Usage) any { return ui.ShortID(u.ID) }},
			{Name: "CacheType", Header: "CACHE TYPE", Value: func(u cache.Usage) any { return u.Type }},
			{Name: "Size", Header: "SIZE", Value: func(u cache.Usage) any { return units.Size(u.Bytes) }},
			{Name: "CreatedSince", Header: "CREATED", Value: func(u cache.Usage) any { return units.Ago(u.Created, d.now) }},
			{Name: "LastUsedSince", Header: "LAST USED", Value: func(u cache.Usage) any { return units.Ago(u.Used, d.now) }},
			{Name: "UsageCount", Header: "USAGE", Value: func(cache.Usage) any { return "1" }},
			{Name: "Shared", Header: "SHARED", Value: func(u cache.Usage) any { return strconv.FormatBool(u.Shared) }},
			{Name: "InUse", Header: "IN USE", Value: func(u cache.Usage) any { return strconv.FormatBool(u.InUse) }},
		},
		Columns: []string{"ID", "CacheType", "Size", "CreatedSince", "LastUsedSince", "UsageCount", "Shared"},
	}
}

// verbose prints every thing there is: with a template, once for all of it, as
// Docker does.
func (d *diskUse) verbose(s ui.Streams, o ui.TableOptions) error {
	slices.SortFunc(d.volumes, func(a, b volumeSpace) int { return cmp.Compare(a.name, b.name) })
	if o.Format != "" && o.Format != "table" {
		return ui.Print(s.Out, map[string]any{
			"Images": d.imageTable().Rows(d.imageRows()), "Containers": d.containerTable().Rows(d.containers),
			"Volumes": volumeTable().Rows(d.volumes), "BuildCache": d.cacheTable().Rows(d.cache),
		}, o.Format, ui.CodeUsage)
	}
	fmt.Fprint(s.Out, "Images space usage:\n\n")
	err := d.imageTable().Write(s.Out, d.imageRows(), o)
	fmt.Fprint(s.Out, "\nContainers space usage:\n\n")
	err = errors.Join(err, d.containerTable().Write(s.Out, d.containers, o))
	fmt.Fprint(s.Out, "\nLocal Volumes space usage:\n\n")
	err = errors.Join(err, volumeTable().Write(s.Out, d.volumes, o))
	fmt.Fprintf(s.Out, "\nBuild cache usage: %s\n\n", units.Size4(d.lines()[3].size))
	return errors.Join(err, d.cacheTable().Write(s.Out, d.cache, o))
}
