package container

import (
	"context"
	"errors"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
)

// lister is what choosing containers needs of a service.
type lister interface {
	List(ctx context.Context) ([]*container.Container, error)
}

// selection is how containers can be named beside their names: Podman's flags.
type selection struct {
	all, latest, ignore bool
	filters, cidFiles   []string
}

// flags defines those of the flags that the command has: a, l, i, f, c.
func (o *selection) flags(f *pflag.FlagSet, which string) {
	for _, w := range which {
		switch w {
		case 'a':
			f.BoolVarP(&o.all, "all", "a", false, "All containers that this makes sense for")
		case 'l':
			f.BoolVarP(&o.latest, "latest", "l", false, "The container made last")
		case 'L': // -l is something else here
			f.BoolVar(&o.latest, "latest", false, "The container made last")
		case 'i':
			f.BoolVarP(&o.ignore, "ignore", "i", false, "Do not fail because a container does not exist")
		case 'f':
			f.StringArrayVar(&o.filters, "filter", nil, "Containers that match `KEY=VALUE`, as in ps")
		case 'F': // -f is free
			f.StringArrayVarP(&o.filters, "filter", "f", nil, "Containers that match `KEY=VALUE`, as in ps")
		case 'c':
			f.StringArrayVar(&o.cidFiles, "cidfile", nil, "The container whose id is in `FILE`")
		}
	}
}

func (o *selection) given() bool {
	return o.all || o.latest || len(o.filters) > 0 || len(o.cidFiles) > 0
}

// args is the check of a command's arguments: at least one container, however
// it is named.
func (o *selection) args(cmd *cobra.Command, args []string) error {
	if o.given() {
		return nil
	}
	return ui.MinArgs(1)(cmd, args)
}

// refs returns the containers to act on, as the user named them, in order. want
// says which ones --all means.
func (o *selection) refs(ctx context.Context, svc lister, args []string, want func(*container.Container) bool) ([]string, error) {
	refs := append([]string(nil), args...)
	for _, path := range o.cidFiles {
		b, err := os.ReadFile(path)
		if err != nil {
			if o.ignore && errors.Is(err, os.ErrNotExist) {
				continue
			}
			return nil, err
		}
		refs = append(refs, strings.TrimSpace(string(b)))
	}
	if !o.all && !o.latest && len(o.filters) == 0 {
		return refs, nil
	}
	all, err := svc.List(ctx)
	if err != nil && len(all) == 0 {
		return nil, err
	}
	f, err := parseFilters(o.filters)
	if err != nil {
		return nil, err
	}
	if err := f.resolve(all); err != nil {
		return nil, err
	}
	for _, c := range all { // newest first
		if o.latest {
			return append(refs, c.ID), nil
		}
		if f.match(ctx, c) && (!o.all || len(o.filters) > 0 || want(c)) {
			refs = append(refs, c.ID)
		}
	}
	return refs, nil
}

// forgiven drops the error for a container that does not exist, if it is to be
// ignored.
func (o *selection) forgiven(err error) error {
	if o.ignore && errs.KindOf(err) == errs.NotFound {
		return nil
	}
	return err
}

func alive(c *container.Container) bool { return c.Alive }

func every(*container.Container) bool { return true }

func stopped(c *container.Container) bool { return !c.Alive }
