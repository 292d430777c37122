// Package complete finds the names that a shell offers for an argument. A
// failure offers nothing: a shell has no place to show it.
package complete

import (
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/docker"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/secret"
	"cais.dev/cais/pkg/volume"
)

// Func is what cobra calls for the words behind a command.
type Func = cobra.CompletionFunc

// None offers nothing, also no files.
func None(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// Words offers fixed words, for flags with few values.
func Words(words ...string) Func {
	return func(_ *cobra.Command, _ []string, start string) ([]string, cobra.ShellCompDirective) {
		return fitting(words, nil, start), cobra.ShellCompDirectiveNoFileComp
	}
}

// Images offers image names for the first most arguments; most < 0 is no limit.
func Images(e *engine.Engine, most int) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return None(cmd, args, start)
		}
		return images(cmd, e, args, start), cobra.ShellCompDirectiveNoFileComp
	}
}

func images(cmd *cobra.Command, e *engine.Engine, args []string, start string) []string {
	r, err := e.Reader()
	if err != nil {
		return nil
	}
	imgs, err := r.Images(cmd.Context())
	if err != nil {
		return nil
	}
	var names []string
	for _, img := range imgs {
		tags, _ := docker.Names(img.Names)
		for _, t := range tags {
			names = append(names, t)
			if base, ok := strings.CutSuffix(t, ":latest"); ok {
				names = append(names, base)
			}
		}
		if start != "" && strings.HasPrefix(img.ID, start) {
			names = append(names, img.ID[:12])
		}
	}
	return fitting(names, args, start)
}

// Containers offers the names of containers for which want holds (nil: of all),
// for the first most arguments; most < 0 is no limit.
func Containers(e *engine.Engine, most int, want func(*container.Container) bool) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return None(cmd, args, start)
		}
		return containers(e, want, args, start), cobra.ShellCompDirectiveNoFileComp
	}
}

func containers(e *engine.Engine, want func(*container.Container) bool, args []string, start string) []string {
	store, err := e.ContainerStore()
	if err != nil {
		return nil
	}
	all, err := store.List()
	if err != nil && len(all) == 0 {
		return nil
	}
	var names []string
	for _, c := range all {
		if want != nil && !want(c) {
			continue
		}
		names = append(names, c.Name())
		if start != "" && strings.HasPrefix(c.ID, start) {
			names = append(names, container.ShortID(c.ID))
		}
	}
	return fitting(names, args, start)
}

// Volumes offers the names of volumes, for the first most arguments; most < 0 is
// no limit.
func Volumes(e *engine.Engine, most int) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		store, err := e.ContainerStore()
		if err != nil || most >= 0 && len(args) >= most {
			return None(cmd, args, start)
		}
		all, _ := volume.In(store.Root).List() // what cannot be read is not offered
		names := make([]string, len(all))
		for i, v := range all {
			names[i] = v.Name
		}
		return fitting(names, args, start), cobra.ShellCompDirectiveNoFileComp
	}
}

// Secrets offers the names of secrets, for the first most arguments; most < 0 is no
// limit.
func Secrets(e *engine.Engine, most int) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		p, err := e.Paths()
		if err != nil || most >= 0 && len(args) >= most {
			return None(cmd, args, start)
		}
		all, _ := secret.In(p.Root).List() // what cannot be read is not offered
		names := make([]string, len(all))
		for i, sec := range all {
			names[i] = sec.Name
		}
		return fitting(names, args, start), cobra.ShellCompDirectiveNoFileComp
	}
}

// ContainersOrImages offers both.
func ContainersOrImages(e *engine.Engine) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		names := append(containers(e, nil, args, start), images(cmd, e, args, start)...)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// Networks offers the names of networks, for the first most arguments; most < 0 is
// no limit.
func Networks(e *engine.Engine, most int) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		if most >= 0 && len(args) >= most {
			return None(cmd, args, start)
		}
		return networks(e, args, start), cobra.ShellCompDirectiveNoFileComp
	}
}

func networks(e *engine.Engine, args []string, start string) []string {
	store, err := e.Networks()
	if err != nil {
		return nil
	}
	all, _ := store.List() // those that can be read
	var names []string
	for _, n := range all {
		names = append(names, n.Name)
	}
	return fitting(names, args, start)
}

// NetworkModes offers what --network takes: networks, and container:NAME.
func NetworkModes(e *engine.Engine) Func {
	return func(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		names := networks(e, nil, start)
		const other = "container:"
		if rest, ok := strings.CutPrefix(start, other); ok {
			for _, n := range containers(e, (*container.Container).Running, nil, rest) {
				names = append(names, other+n)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// NetworkThenContainer offers a network, then a container.
func NetworkThenContainer(e *engine.Engine) Func {
	return func(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		switch len(args) {
		case 0:
			return networks(e, args, start), cobra.ShellCompDirectiveNoFileComp
		case 1:
			return containers(e, nil, nil, start), cobra.ShellCompDirectiveNoFileComp
		}
		return None(cmd, args, start)
	}
}

// fitting are the names that begin with start and are not given already.
func fitting(names, given []string, start string) []string {
	var fit []string
	for _, n := range names {
		if strings.HasPrefix(n, start) && !contains(given, n) {
			fit = append(fit, n)
		}
	}
	return fit
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}
