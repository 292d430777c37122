// Package volume holds the commands about volumes.
package volume

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/volume"
)

// NewCreate makes "volume create".
func NewCreate(e *engine.Engine, s ui.Streams) *cobra.Command {
	var v volume.Volume
	var labels, opts []string
	var name string
	var ignore bool
	var uid, gid int
	cmd := &cobra.Command{
		Use:               "create [OPTIONS] [VOLUME]",
		Short:             "Make a volume",
		Args:              ui.MaxArgs(1),
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				if name != "" {
					return errors.New("conflicting options: either specify --name or provide positional arg, not both")
				}
				name = args[0]
			}
			v.Name = name
			var err error
			if v.Labels, err = flags.KeyValues("label", labels); err != nil {
				return err
			}
			v.Options = pairs(opts)
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			made, err := svc.CreateVolume(cmd.Context(), &v, uid, gid)
			if err != nil {
				return err
			}
			fmt.Fprintln(s.Out, made.Name)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&v.Driver, "driver", "d", volume.Local, "Volume `driver`: local")
	f.StringVar(&name, "name", "", "The volume's name")
	_ = f.MarkHidden("name")
	f.StringArrayVar(&labels, "label", nil, "Set metadata: `KEY=VALUE`")
	f.StringArrayVarP(&opts, "opt", "o", nil, "What to mount, as mount(8) takes it: type=, device=, o=")
	f.IntVar(&uid, "uid", 0, "Owner of the new volume's directory, in containers")
	f.IntVar(&gid, "gid", 0, "Group of the new volume's directory, in containers")
	f.BoolVar(&ignore, "ignore", false, "Accepted: a volume that is there is no error")
	_ = f.MarkHidden("ignore")
	return cmd
}

func pairs(list []string) map[string]string {
	var m map[string]string
	for _, kv := range list {
		k, v, _ := strings.Cut(kv, "=")
		if m == nil {
			m = map[string]string{}
		}
		m[k] = v
	}
	return m
}

// NewInspect makes "volume inspect".
func NewInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	var all bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] VOLUME [VOLUME...]",
		Short: "Show what is known of volumes",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		ValidArgsFunction: complete.Volumes(e, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			if all {
				var err error
				if args, err = names(e); err != nil {
					return err
				}
			}
			return ui.InspectAll(s.Out, args, format, func(ref string) (any, error) { return Inspect(e, ref) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "All volumes")
	return cmd
}

// names are those of all volumes.
func names(e *engine.Engine) ([]string, error) {
	svc, err := e.Containers()
	if err != nil {
		return nil, err
	}
	list, err := svc.Volumes().List()
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names, err
}

// Inspect returns what is known of the volume called name.
func Inspect(e *engine.Engine, name string) (*docker.Volume, error) {
	svc, err := e.Containers()
	if err != nil {
		return nil, err
	}
	v, err := svc.Volumes().Load(name)
	if err != nil {
		return nil, err
	}
	return dockerVolume(svc, v), nil
}

func dockerVolume(svc *run.Service, v *volume.Volume) *docker.Volume {
	return &docker.Volume{
		CreatedAt: v.Created.Local().Truncate(time.Second).Format(time.RFC3339), Driver: v.Driver,
		Labels: v.Labels, Mountpoint: svc.Volumes().Data(v.Name), Name: v.Name, Options: v.Options, Scope: "local",
	}
}

// NewExists makes "volume exists", which answers with its exit code.
func NewExists(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return ui.NewExists("VOLUME", complete.Volumes(e, 1), func(_ context.Context, name string) error {
		_, err := Inspect(e, name)
		return err
	})
}

// NewRm makes "volume rm".
func NewRm(e *engine.Engine, s ui.Streams) *cobra.Command {
	var force, all bool
	var timeout int
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] VOLUME [VOLUME...]",
		Short: "Remove volumes",
		Args: func(cmd *cobra.Command, args []string) error {
			if all {
				return ui.NoArgs(cmd, args)
			}
			return ui.MinArgs(1)(cmd, args)
		},
		ValidArgsFunction: complete.Volumes(e, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Healed(cmd.Context())
			if err != nil {
				return err
			}
			if all {
				if args, err = names(e); err != nil {
					return err
				}
			}
			return remove(cmd.Context(), s.Out, svc, args, force)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&force, "force", "f", false, "Do not mind those that do not exist")
	f.BoolVarP(&all, "all", "a", false, "All volumes")
	f.IntVarP(&timeout, "time", "t", 0, "Accepted: no container is stopped")
	_ = f.MarkHidden("time")
	return cmd
}

// remover is what rm needs of a service.
type remover interface {
	RemoveVolume(ctx context.Context, name string) error
}

func remove(ctx context.Context, out io.Writer, svc remover, names []string, force bool) error {
	var failed []error
	for _, name := range names {
		err := svc.RemoveVolume(ctx, name)
		if force && errs.KindOf(err) == errs.NotFound {
			err = nil
		}
		if err != nil {
			failed = append(failed, err)
			continue
		}
		fmt.Fprintln(out, name)
	}
	return errors.Join(failed...)
}

// NewPrune makes "volume prune".
func NewPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var filters []string
	var force, all bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove volumes that no container uses",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			f, err := pruneFilters(e.PruneFilters(filters))
			if err != nil {
				return err
			}
			all = all || slices.Contains(f.values["all"], "true") || slices.Contains(f.values["all"], "1")
			if !force {
				what := "anonymous local volumes"
				if all {
					what = "all local volumes"
				}
				ok, err := ui.Confirm(cmd.Context(), s, "WARNING! This will remove "+what+" not used by at least one container.")
				if err != nil || !ok {
					return err
				}
			}
			svc.Heal(cmd.Context())
			names, bytes, err := svc.PruneVolumes(cmd.Context(), all, f.match)
			if len(names) > 0 {
				fmt.Fprintln(s.Out, "Deleted Volumes:\n"+strings.Join(names, "\n")+"\n")
			}
			fmt.Fprintln(s.Out, "Total reclaimed space: "+units.Size(bytes))
			return err
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "Remove those that have a name, too")
	f.StringArrayVar(&filters, "filter", nil, "Remove only what matches `KEY=VALUE`: label, label!, until, all")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	return cmd
}

type listOptions struct {
	filters []string
	table   ui.TableOptions
}

// NewLs makes "volume ls".
func NewLs(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o listOptions
	var cluster bool
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List volumes",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cluster {
				return ui.Later("volume ls --cluster", "There is no swarm: leave it out.")
			}
			if !cmd.Flags().Changed("format") {
				o.table.Format = e.ClientFormat("volumesFormat")
			}
			store, err := e.ContainerStore()
			if err != nil {
				return err
			}
			return list(cmd.Context(), s.Out, run.New(run.Options{Store: store}), o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "List only what matches `KEY=VALUE`: dangling, driver, label, name, anonymous, since, until")
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, raw, or a Go template")
	f.BoolVarP(&o.table.Quiet, "quiet", "q", false, "Print names only")
	f.BoolVarP(&o.table.NoHeading, "noheading", "n", false, "Leave the table's header out")
	f.BoolVar(&cluster, "cluster", false, "Only cluster volumes")
	_ = f.MarkHidden("cluster")
	return cmd
}

func list(ctx context.Context, w io.Writer, svc *run.Service, o listOptions) error {
	f, err := parseFilters("-f, --filter", o.filters, listKeys[:]...)
	if err != nil {
		return err
	}
	all, listErr := svc.Volumes().List()
	if len(f.values["dangling"]) > 0 {
		users, err := svc.VolumeUsers(ctx)
		if err != nil {
			return err
		}
		f.used = func(name string) bool { return len(users[name]) > 0 }
	}
	all = slices.DeleteFunc(all, func(v *volume.Volume) bool { return !f.match(v) })
	slices.SortFunc(all, func(a, b *volume.Volume) int { return cmp.Compare(a.Name, b.Name) })
	return errors.Join(table(svc).Write(w, all, o.table), listErr)
}

func table(svc *run.Service) ui.Table[*volume.Volume] {
	text := func(s string) func(*volume.Volume) any { return func(*volume.Volume) any { return s } }
	return ui.Table[*volume.Volume]{
		Type: "*formatter.volumeContext",
		Fields: []ui.Field[*volume.Volume]{
			{Name: "Name", Header: "VOLUME NAME", Value: func(v *volume.Volume) any { return v.Name }},
			{Name: "Driver", Header: "DRIVER", Value: func(v *volume.Volume) any { return v.Driver }},
			{Name: "Scope", Header: "SCOPE", Value: text("local")},
			{Name: "Mountpoint", Header: "MOUNTPOINT", Value: func(v *volume.Volume) any { return svc.Volumes().Data(v.Name) }},
			{Name: "Labels", Header: "LABELS", Value: func(v *volume.Volume) any { return ui.Labels(v.Labels) }},
			{Name: "Links", Header: "LINKS", Value: text("N/A")},
			{Name: "Size", Header: "SIZE", Value: text("N/A")},
			{Name: "Availability", Header: "AVAILABILITY", Value: text("N/A")},
			{Name: "Group", Header: "GROUP", Value: text("N/A")},
			{Name: "Status", Header: "STATUS", Value: text("N/A")},
		},
		Columns: []string{"Driver", "Name"},
		Quiet:   "Name",
		Raw:     []ui.RawField{{Key: "name", Name: "Name"}, {Key: "driver", Name: "Driver"}},
		Label:   func(v *volume.Volume, key string) string { return v.Labels[key] },
	}
}
