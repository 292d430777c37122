package container

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/units"
)

type psOptions struct {
	all, noTrunc, size, latest bool
	last                       int
	filters                    []string
	sort                       string
	table                      ui.TableOptions
	now                        time.Time
	volumeDir                  func(string) string
	images                     *imageIndex
}

// NewPs makes "ps", "container ls".
func NewPs(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o psOptions
	var watch, namespaces, pod bool
	cmd := &cobra.Command{
		Use:               "ps [OPTIONS]",
		Short:             "List containers",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case watch:
				return ui.Later("ps --watch", "'watch cais ps' does it; 'cais events' tells what changes.")
			case namespaces:
				return ui.Later("ps --ns", "'lsns -p PID' shows them; 'cais inspect -f {{.State.Pid}}' tells the pid.")
			case pod:
				return ui.Later("ps --pod", "There are no pods: leave it out.")
			}
			if !cmd.Flags().Changed("format") {
				o.table.Format = e.ClientFormat("psFormat")
			}
			store, err := e.ContainerStore()
			if err != nil {
				return err
			}
			o.now, o.volumeDir = time.Now(), store.VolumeDir
			o.images = &imageIndex{open: e.Reader}
			// Only the containers' files and the list of images: this machine is
			// not looked at.
			return ps(cmd.Context(), s, run.New(run.Options{Store: store}), o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "List stopped containers too")
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "List only what matches `KEY=VALUE`: id, name, label, exited, status, ancestor, before, since, volume, network, health, restart-policy, command, until")
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, raw, or a Go template")
	f.IntVarP(&o.last, "last", "n", -1, "List the last `n` made, running or not")
	f.BoolVarP(&o.latest, "latest", "l", false, "List the last one made, running or not")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not shorten anything")
	f.BoolVarP(&o.table.Quiet, "quiet", "q", false, "Print ids only")
	f.BoolVarP(&o.size, "size", "s", false, "Show sizes")
	f.BoolVar(&o.table.NoHeading, "noheading", false, "Leave the table's header out")
	f.StringVar(&o.sort, "sort", "created", "Sort by `what`: created, command, id, image, names, runningfor, size, status")
	f.BoolVarP(&watch, "watch", "w", false, "List again and again")
	f.BoolVar(&namespaces, "ns", false, "Show namespaces")
	f.BoolVarP(&pod, "pod", "p", false, "Show pods")
	f.Bool("external", false, "Accepted: containers of other tools are not listed")
	f.Bool("sync", false, "Accepted: what is listed is always up to date")
	_ = f.MarkHidden("external")
	_ = f.MarkHidden("sync")
	return cmd
}

// row is a line of ps.
type row struct {
	c      *container.Container
	size   string
	linked []string // "web/db" for each --link to it, with --no-trunc
}

func psTable(ctx context.Context, o psOptions) ui.Table[row] {
	t := ui.Table[row]{
		Type: "*formatter.ContainerContext",
		Fields: []ui.Field[row]{
			{Name: "ID", Header: "CONTAINER ID", Value: func(r row) any {
				if o.noTrunc {
					return r.c.ID
				}
				return container.ShortID(r.c.ID)
			}},
			{Name: "Names", Header: "NAMES", Value: func(r row) any { return strings.Join(append([]string{r.c.Name()}, r.linked...), ",") }},
			{Name: "Image", Header: "IMAGE", Value: func(r row) any { return o.images.name(ctx, r.c.Record, o.noTrunc) }},
			{Name: "Command", Header: "COMMAND", Value: func(r row) any { return commandText(r.c.Record, o.noTrunc) }},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(r row) any { return r.c.Record.Created.Local().Format(ui.TimeLayout) }},
			{Name: "RunningFor", Header: "CREATED", Value: func(r row) any { return units.Ago(r.c.Record.Created, o.now) }},
			{Name: "Ports", Header: "PORTS", Value: func(r row) any { return ports(r.c) }},
			{Name: "State", Header: "STATE", Value: func(r row) any { return string(r.c.Status()) }},
			{Name: "Status", Header: "STATUS", Value: func(r row) any { return statusText(r.c, o.now) }},
			{Name: "Size", Header: "SIZE", Value: func(r row) any { return r.size }},
			{Name: "Labels", Header: "LABELS", Value: func(r row) any { return ui.Labels(r.c.Record.Labels()) }},
			{Name: "Mounts", Header: "MOUNTS", Value: func(r row) any { return mountText(r.c.Record, o) }},
			{Name: "LocalVolumes", Header: "LOCAL VOLUMES", Value: func(r row) any { return strconv.Itoa(len(r.c.Record.Volumes)) }},
			{Name: "Networks", Header: "NETWORKS", Value: func(r row) any { return strings.Join(networkNames(r.c), ",") }},
			{Name: "Platform", Header: "PLATFORM", Value: func(r row) any { return platform(r.c.Record) }},
			{Name: "HealthStatus", Header: "HEALTH STATUS", Value: func(r row) any { return healthStatus(r.c) }},
			{Name: "Created", Header: "CREATED", Extra: true, Value: func(r row) any { return units.Ago(r.c.Record.Created, o.now) }},
			{Name: "ImageID", Header: "IMAGE ID", Extra: true, Value: func(r row) any { return r.c.Record.ImageID }},
			{Name: "Pid", Header: "PID", Extra: true, Value: func(r row) any { return pid(r.c) }},
			{Name: "ExitCode", Header: "EXIT CODE", Extra: true, Value: func(r row) any { return lastExit(r.c).Code }},
			{Name: "Exited", Header: "EXITED", Extra: true, Value: func(r row) any { return r.c.Status() == container.Exited }},
			{Name: "ExitedAt", Header: "EXITED AT", Extra: true, Value: func(r row) any { return lastExit(r.c).FinishedAt.Unix() }},
			{Name: "StartedAt", Header: "STARTED AT", Extra: true, Value: func(r row) any { return r.c.StartedAt().Unix() }},
			{Name: "Restarts", Header: "RESTARTS", Extra: true, Value: func(r row) any { return docker.Restarts(r.c) }},
		},
		Columns: []string{"ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names"},
		Quiet:   "ID",
		Raw: []ui.RawField{
			{Key: "container_id", Name: "ID"}, {Key: "image", Name: "Image"}, {Key: "command", Name: "Command"},
			{Key: "created_at", Name: "CreatedAt"}, {Key: "state", Name: "State"}, {Key: "status", Name: "Status"},
			{Key: "names", Name: "Names"}, {Key: "labels", Name: "Labels"}, {Key: "ports", Name: "Ports"},
		},
		Label: func(r row, key string) string { return r.c.Record.Labels()[key] },
	}
	if o.size {
		t.Columns = append(t.Columns, "Size")
		t.Raw = append(t.Raw, ui.RawField{Key: "size", Name: "Size"})
	}
	return t
}

// ps prints the containers that the options choose, newest first.
func ps(ctx context.Context, s ui.Streams, svc lister, o psOptions) error {
	f, err := parseFilters(o.filters)
	if err != nil {
		return err
	}
	f.images = o.images
	all, listErr := svc.List(ctx)
	if err := f.resolve(all); err != nil {
		return err
	}
	if o.latest {
		o.last = 1
	}
	var chosen []*container.Container
	for _, c := range all {
		if !f.match(ctx, c) || !o.all && o.last < 0 && !f.impliesAll() && !listed(c) {
			continue
		}
		if o.last >= 0 && len(chosen) == o.last {
			break
		}
		chosen = append(chosen, c)
	}
	if err := sortBy(chosen, o.sort); err != nil {
		return err
	}
	t := psTable(ctx, o)
	sizes := o.size || o.table.Format != "" && o.table.Format != "json" && t.Uses(o.table, "Size")
	rows := make([]row, len(chosen))
	for i, c := range chosen {
		rows[i] = row{c: c, size: "0B"}
		if o.noTrunc {
			rows[i].linked = linkedNames(c, all)
		}
		if sizes {
			if rows[i].size, err = sizeText(ctx, c); err != nil {
				return err
			}
		}
	}
	return errors.Join(t.Write(s.Out, rows, o.table), listErr)
}

// pid is the container's first process; 0 while it does not run.
func pid(c *container.Container) int {
	if !c.Running() {
		return 0
	}
	return c.State.PID
}

// lastExit is how c ended last; zero if it never did.
func lastExit(c *container.Container) container.Exit {
	if e := c.LastExit(); e != nil {
		return *e
	}
	return container.Exit{}
}

// linkedNames are what c is called by the containers that link to it.
func linkedNames(c *container.Container, all []*container.Container) []string {
	var names []string
	for _, from := range all {
		for _, l := range from.Record.Request.Links {
			if to, alias, _ := strings.Cut(l, ":"); to == c.Name() || len(to) >= 12 && strings.HasPrefix(c.ID, to) {
				names = append(names, from.Name()+"/"+alias)
			}
		}
	}
	return names
}

// listed reports whether ps shows c without -a.
func listed(c *container.Container) bool {
	switch c.Status() {
	case container.Running, container.Paused, container.Restarting:
		return true
	}
	return false
}

// statusText is Docker's sentence on how a container does.
func statusText(c *container.Container, now time.Time) string {
	code := 0
	var finished time.Time
	if e := c.LastExit(); e != nil {
		code, finished = e.Code, e.FinishedAt
	}
	switch c.Status() {
	case container.Running:
		up := "Up " + units.Duration(now.Sub(c.StartedAt()))
		switch h := healthStatus(c); h {
		case "none":
			return up
		case "starting":
			return up + " (health: starting)"
		default:
			return up + " (" + h + ")"
		}
	case container.Paused:
		return "Up " + units.Duration(now.Sub(c.StartedAt())) + " (Paused)"
	case container.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", code, units.Duration(now.Sub(finished)))
	case container.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", code, units.Duration(now.Sub(finished)))
	case container.Removing:
		return "Removal In Progress"
	case container.Dead:
		return "Dead"
	}
	return "Created"
}

// healthStatus is starting, healthy or unhealthy, or "none" for a container that
// is not probed.
func healthStatus(c *container.Container) string {
	if plan.Health(c.Record.Request, c.Record.Image) == nil {
		return "none"
	}
	if h := c.Health(); h != nil {
		return h.Status
	}
	return "starting"
}

// imageName is the reference as it was given, in the familiar form.
func imageName(rec *container.Record) string {
	ref, err := oci.Parse(rec.ImageRef)
	if err != nil {
		return rec.ImageRef
	}
	if strings.HasPrefix(rec.ImageID, rec.ImageRef) && len(rec.ImageRef) >= 4 {
		return rec.ImageRef // part of the id, which reads as a name too
	}
	return ref.Familiar()
}

func commandText(rec *container.Record, full bool) string {
	text := docker.Command(rec)
	if !full {
		text = ui.Ellipsis(text, 20)
	}
	return strconv.Quote(text)
}

// ports are those that are published or exposed, while the container runs.
func ports(c *container.Container) string {
	if !c.Running() || docker.NoPorts(c.Record) {
		return ""
	}
	return docker.PortsText(docker.Ports(c, sandbox(c)))
}

// sandbox is the network of a container that has ports; nil for others, whose
// file need not be read.
func sandbox(c *container.Container) *network.Sandbox {
	if req := c.Record.Request; len(req.Ports) == 0 && !req.PublishAll {
		return nil
	}
	return network.ReadSandbox(c.Dir)
}

func mountText(rec *container.Record, o psOptions) string {
	var list []string
	for _, m := range docker.MountPoints(rec, o.volumeDir) {
		name := m.Name
		if name == "" {
			name = m.Source
		}
		if !o.noTrunc {
			name = ui.Ellipsis(name, 15)
		}
		list = append(list, name)
	}
	return strings.Join(list, ",")
}

// networkNames are the networks that the container is in.
func networkNames(c *container.Container) []string {
	req := c.Record.Request
	if req.Network == "host" || req.Network == "none" && len(c.Networks()) == 0 {
		return []string{req.Network}
	}
	var names []string
	for _, a := range c.Networks() {
		names = append(names, a.Network)
	}
	slices.Sort(names)
	return names
}

func platform(rec *container.Record) any {
	if rec.Platform.OS == "" {
		return nil
	}
	return rec.Platform
}

// sizeText is "0B (virtual 1.98MB)": what the container wrote, and that with
// its image.
func sizeText(ctx context.Context, c *container.Container) (string, error) {
	own, err := run.TreeSize(ctx, filepath.Join(c.Dir, "upper"))
	if err != nil {
		return "", err
	}
	whole := own
	for _, dir := range c.Record.Lower {
		n, err := run.TreeSize(ctx, dir)
		if err != nil {
			return "", err
		}
		whole += n
	}
	return fmt.Sprintf("%s (virtual %s)", units.Size(own), units.Size(whole)), nil
}

// sortBy sorts containers that are newest first.
func sortBy(list []*container.Container, by string) error {
	keys := map[string]func(*container.Container) string{
		"command": func(c *container.Container) string { return docker.Command(c.Record) },
		"id":      func(c *container.Container) string { return c.ID },
		"image":   func(c *container.Container) string { return imageName(c.Record) },
		"names":   func(c *container.Container) string { return c.Name() },
		"status":  func(c *container.Container) string { return string(c.Status()) },
	}
	switch by {
	case "created", "":
		return nil
	case "runningfor":
		slices.Reverse(list)
		return nil
	case "size":
		return ui.Later("ps --sort size", "'cais ps --size' shows the sizes: sort its lines.")
	}
	key, ok := keys[by]
	if !ok {
		return ui.Exit(ui.CodeUsage, fmt.Errorf("%q is not something that ps can sort by", by))
	}
	slices.SortStableFunc(list, func(a, b *container.Container) int { return strings.Compare(key(a), key(b)) })
	return nil
}
