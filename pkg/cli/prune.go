package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/container"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/image"
	"cais.dev/cais/pkg/cli/network"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/storage"
	"cais.dev/cais/pkg/units"
	"cais.dev/cais/pkg/volume"
)

type pruneOptions struct {
	all, volumes bool
	named        bool // volumes that were named, too
	filters      []string
}

// newSystemPrune makes "system prune".
func newSystemPrune(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o pruneOptions
	var force, external, build bool
	cmd := &cobra.Command{
		Use:               "prune [OPTIONS]",
		Short:             "Remove what is unused: containers, networks, images, the build cache",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if external {
				return ui.Later("system prune --external", "'podman system prune --external' removes other tools' containers.")
			}
			o.filters = e.PruneFilters(o.filters)
			if err := o.check(); err != nil {
				return err
			}
			if !force {
				ok, err := ui.Confirm(cmd.Context(), s, o.warning())
				if err != nil || !ok {
					return err
				}
			}
			return systemPrune(cmd.Context(), e, s, o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "Remove all images that no container uses, not only those without a name")
	f.StringArrayVar(&o.filters, "filter", nil, "Remove only what matches `KEY=VALUE`: until, label, label!")
	f.BoolVarP(&force, "force", "f", false, "Do not ask")
	f.BoolVar(&o.volumes, "volumes", false, "Remove anonymous volumes, too")
	f.BoolVar(&build, "build", false, "Remove the build cache, too; cais does so anyway")
	f.BoolVar(&external, "external", false, "Remove other tools' containers")
	return cmd
}

// check refuses filters that one of the parts would refuse later.
func (o pruneOptions) check() error {
	values, err := flags.Filters("--filter", o.filters, "until", "label", "label!")
	if err == nil && len(values["until"]) > 0 && o.volumes {
		err = errors.New(`the "until" filter is not supported with "--volumes"`)
	}
	return err
}

func (o pruneOptions) warning() string {
	var b strings.Builder
	b.WriteString("WARNING! This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n")
	if o.volumes {
		b.WriteString("  - all anonymous volumes not used by at least one container\n")
	}
	if o.all {
		b.WriteString("  - all images without at least one container associated to them\n  - all build cache\n")
	} else {
		b.WriteString("  - all dangling images\n  - unused build cache\n")
	}
	if len(o.filters) > 0 {
		b.WriteString("\n  Items to be pruned will be filtered with:\n")
		for _, f := range o.filters {
			b.WriteString("  - " + f + "\n")
		}
	}
	return b.String()
}

// systemPrune goes on after failures: what can be freed is freed.
func systemPrune(ctx context.Context, e *engine.Engine, s ui.Streams, o pruneOptions) error {
	var total int64
	var failed []error
	svc, err := e.Healed(ctx)
	if err != nil {
		return err
	}
	ids, bytes, err := container.Prune(ctx, svc, o.filters)
	failed = append(failed, err)
	total += bytes
	block(s, "Deleted Containers:", ids)
	for _, part := range parts() {
		if part.volumes && !o.volumes {
			continue
		}
		names, bytes, err := part.prune(ctx, e, o)
		failed = append(failed, err)
		total += bytes
		block(s, part.head, names)
	}
	p, err := image.Prune(ctx, e, image.PruneOptions{All: o.all, Filters: o.filters, Cache: true})
	failed = append(failed, err)
	total += p.Bytes
	p.Print(s)
	fmt.Fprintln(s.Out, "Total reclaimed space: "+units.Size4(total))
	return errors.Join(failed...)
}

// part is one of the things that are pruned between containers and images.
type part struct {
	head    string
	volumes bool // only with --volumes
	prune   func(ctx context.Context, e *engine.Engine, o pruneOptions) (names []string, bytes int64, err error)
}

// parts are in Docker's order.
func parts() []part {
	return []part{
		{"Deleted Networks:", false, func(ctx context.Context, e *engine.Engine, o pruneOptions) ([]string, int64, error) {
			names, err := network.PruneAll(ctx, e, o.filters)
			return names, 0, err
		}},
		{"Deleted Volumes:", true, func(ctx context.Context, e *engine.Engine, o pruneOptions) ([]string, int64, error) {
			svc, err := e.Containers()
			if err != nil {
				return nil, 0, err
			}
			return svc.PruneVolumes(ctx, o.named, func(v *volume.Volume) bool { return matchLabels(v.Labels, o.filters) })
		}},
	}
}

// matchLabels reports whether labels pass all filters about labels.
func matchLabels(labels map[string]string, filters []string) bool {
	for _, f := range filters {
		kind, want, _ := strings.Cut(f, "=")
		k, v, valued := strings.Cut(want, "=")
		got, ok := labels[k]
		has := ok && (!valued || got == v)
		if kind == "label" && !has || kind == "label!" && has {
			return false
		}
	}
	return true
}

// block prints what one part removed.
func block(s ui.Streams, head string, names []string) {
	if len(names) == 0 {
		return
	}
	fmt.Fprintln(s.Out, head)
	for _, n := range names {
		fmt.Fprintln(s.Out, n)
	}
	fmt.Fprintln(s.Out)
}

// newCheck makes "system check".
func newCheck(e *engine.Engine, s ui.Streams) *cobra.Command {
	var quick, repair, force bool
	var max string
	cmd := &cobra.Command{
		Use:               "check [OPTIONS]",
		Short:             "Look for damage in the image store, and repair it",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if max != "" {
				return ui.Later("system check --max", "'cais system check' without it looks whatever the age.")
			}
			if force && !repair {
				return ui.Exit(ui.CodeUsage, errors.New("--force goes with --repair"))
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return inside(code, err)
			}
			return check(cmd.Context(), e, s, quick, repair)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&quick, "quick", "q", false, "Do not read the layers")
	f.BoolVarP(&repair, "repair", "r", false, "Remove what is damaged or left over")
	f.BoolVarP(&force, "force", "f", false, "With --repair: remove damaged images also if a container uses them; they are kept by their containers")
	f.StringVarP(&max, "max", "m", "", "Age of layers that nothing uses")
	_ = f.MarkHidden("max")
	return cmd
}

func check(ctx context.Context, e *engine.Engine, s ui.Streams, quick, repair bool) (err error) {
	st, err := e.Store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	o := storage.CheckOptions{Quick: quick, Live: e.Live}
	found, err := st.Check(ctx, o)
	if err != nil {
		return err
	}
	for _, p := range found {
		fmt.Fprintln(s.Out, p.Text)
	}
	if len(found) == 0 {
		return nil
	}
	if !repair {
		return errs.WithHint(errors.New("the image store is not as it should be"), "'cais system check --repair' removes what is damaged or left over; images can be pulled again.")
	}
	lost, err := st.Repair(ctx, found, storage.CollectOptions{Live: e.Live})
	for _, name := range lost {
		fmt.Fprintln(s.Out, "Deleted damaged image", name)
	}
	if err != nil {
		return err
	}
	left, err := st.Check(ctx, o)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		for _, p := range left {
			fmt.Fprintln(s.Out, p.Text)
		}
		return fmt.Errorf("%d problems remain: containers use what is damaged", len(left))
	}
	return nil
}

// newReset makes "system reset".
func newReset(e *engine.Engine, s ui.Streams) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "reset [OPTIONS]",
		Short:             "Remove everything: containers, volumes, networks, images",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := e.Paths()
			if err != nil {
				return err
			}
			so, err := e.StorageOptions()
			if err != nil {
				return err
			}
			if !force {
				ok, err := ui.Confirm(cmd.Context(), s, "WARNING! This will remove:\n  - all containers, running ones too\n  - all volumes and networks\n  - all images, which other tools of this store share with cais\n  - all build cache\nbelow "+p.Root+" and "+so.GraphRoot+".\n")
				if err != nil || !ok {
					return err
				}
			}
			return reset(cmd.Context(), e)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Do not ask")
	return cmd
}

func reset(ctx context.Context, e *engine.Engine) error {
	svc, err := e.Healed(ctx)
	if err != nil {
		return err
	}
	list, err := svc.List(ctx)
	if err != nil {
		return err
	}
	var failed []error
	for _, c := range list {
		err := svc.Remove(ctx, c.ID, run.RemoveOptions{Force: true, Volumes: true})
		if errs.KindOf(err) != errs.NotFound {
			failed = append(failed, err)
		}
	}
	for _, part := range parts() {
		_, _, err := part.prune(ctx, e, pruneOptions{all: true, volumes: true, named: true})
		failed = append(failed, err)
	}
	networks, err := e.Connections()
	if err == nil {
		err = networks.Reset(ctx)
	}
	if err := errors.Join(append(failed, err)...); err != nil {
		return err
	}
	if _, err := image.Prune(ctx, e, image.PruneOptions{All: true, Cache: true}); err != nil {
		return err
	}
	r, err := e.Reader()
	if err != nil {
		return err
	}
	left, err := r.Images(ctx)
	if err != nil {
		return err
	}
	p, err := e.Paths()
	if err != nil {
		return err
	}
	left = slices.DeleteFunc(left, func(img *storage.Image) bool { return img.ReadOnly })
	if len(left) > 0 {
		return errs.WithHint(errs.New(errs.Conflict, fmt.Sprintf("%d images stay: containers of another tool, or of another cais, use them", len(left))),
			"'podman ps -a --external' shows them.")
	}
	return os.RemoveAll(filepath.Join(p.Root, "events"))
}
