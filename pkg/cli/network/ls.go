package network

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/network"
	"cais.dev/cais/pkg/units"
)

// NewLs makes "network ls".
func NewLs(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o ui.TableOptions
	var noTrunc bool
	var filter []string
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List networks",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("format") {
				o.Format = e.ClientFormat("networksFormat")
			}
			f, err := parseFilters(filter, "dangling", "driver", "id", "label", "label!", "name", "scope", "type", "until")
			if err != nil {
				return err
			}
			store, err := e.Networks()
			if err != nil {
				return err
			}
			all, listErr := store.List()
			if all, err = f.choose(cmd.Context(), e, all); err != nil {
				return err
			}
			if err := table(noTrunc).Write(s.Out, all, o); err != nil {
				return err
			}
			return listErr
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Print the ids only")
	f.BoolVar(&noTrunc, "no-trunc", false, "Do not cut the ids")
	f.StringVar(&o.Format, "format", "", "Print in a `form`: table, json, raw, or a Go template")
	f.BoolVarP(&o.NoHeading, "noheading", "n", false, "Print no headers")
	f.Lookup("noheading").Hidden = true
	f.StringArrayVarP(&filter, "filter", "f", nil, "List only what matches `KEY=VALUE`: dangling, driver, id, label, name, scope, type")
	return cmd
}

func table(noTrunc bool) ui.Table[*network.Network] {
	type n = *network.Network
	yes := func(b bool) string { return strconv.FormatBool(b) }
	return ui.Table[n]{
		Type: "*network.networkContext",
		Fields: []ui.Field[n]{
			{Name: "ID", Header: "NETWORK ID", Value: func(n n) any {
				if noTrunc {
					return n.ID
				}
				return container.ShortID(n.ID)
			}},
			{Name: "Name", Header: "NAME", Value: func(n n) any { return n.Name }},
			{Name: "Driver", Header: "DRIVER", Value: func(n n) any { return n.Driver }},
			{Name: "Scope", Header: "SCOPE", Value: func(n) any { return "local" }},
			{Name: "IPv4", Header: "IPV4", Value: func(n n) any { return yes(n.IPv4) }},
			{Name: "IPv6", Header: "IPV6", Value: func(n n) any { return yes(n.IPv6) }},
			{Name: "Internal", Header: "INTERNAL", Value: func(n n) any { return yes(n.Internal) }},
			{Name: "Labels", Header: "LABELS", Value: func(n n) any { return ui.Labels(n.Labels) }},
			{Name: "CreatedAt", Header: "CREATED AT", Value: func(n n) any { return n.Created.String() }},
		},
		Columns: []string{"ID", "Name", "Driver", "Scope"},
		Quiet:   "ID",
		Raw:     []ui.RawField{{Key: "network_id", Name: "ID"}, {Key: "name", Name: "Name"}, {Key: "driver", Name: "Driver"}, {Key: "scope", Name: "Scope"}},
		Label:   func(n n, key string) string { return n.Labels[key] },
	}
}

// filters are the values of each --filter key.
type filters map[string][]string

func parseFilters(args []string, keys ...string) (filters, error) {
	f, err := flags.Filters("-f, --filter", args, keys...)
	if err != nil {
		return nil, err
	}
	for _, v := range f["type"] {
		if v != "builtin" && v != "custom" {
			return nil, errs.New(errs.Invalid, "invalid filter: 'type'='"+v+"'")
		}
	}
	for _, v := range f["dangling"] {
		if !slices.Contains([]string{"true", "false", "1", "0"}, v) {
			return nil, errs.New(errs.Invalid, `invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`)
		}
	}
	return f, nil
}

// choose returns the networks that pass every key. Of several values of one key
// one must match, but of labels all.
func (f filters) choose(ctx context.Context, e *engine.Engine, all []*network.Network) ([]*network.Network, error) {
	if len(f) == 0 {
		return all, nil
	}
	used := map[string]bool{}
	if len(f["dangling"]) > 0 {
		list, err := containers(ctx, e)
		if err != nil {
			return nil, err
		}
		for _, n := range all {
			used[n.ID] = n.Builtin() || slices.ContainsFunc(list, func(c *container.Container) bool { return uses(c, n) })
		}
	}
	var until time.Time
	for _, v := range f["until"] {
		var err error
		if until, err = units.ParseTime(v, time.Now(), time.Local); err != nil {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("failed to parse value as time or duration: %q", v))
		}
	}
	var out []*network.Network
	for _, n := range all {
		if f.match(n, used[n.ID], until) {
			out = append(out, n)
		}
	}
	return out, nil
}

func (f filters) match(n *network.Network, used bool, until time.Time) bool {
	for key, values := range f {
		not := func(v string) bool { return !hasLabel(n, v) }
		switch key {
		case "label":
			if slices.ContainsFunc(values, not) {
				return false
			}
			continue
		case "label!":
			if !slices.ContainsFunc(values, not) {
				return false
			}
			continue
		}
		if !slices.ContainsFunc(values, func(v string) bool { return matchOne(n, key, v, used, until) }) {
			return false
		}
	}
	return true
}

func hasLabel(n *network.Network, want string) bool {
	k, v, valued := strings.Cut(want, "=")
	have, ok := n.Labels[k]
	return ok && (!valued || have == v)
}

func matchOne(n *network.Network, key, v string, used bool, until time.Time) bool {
	switch key {
	case "dangling":
		return (v == "true" || v == "1") != used
	case "driver":
		return n.Driver == v
	case "id":
		return pattern(v, n.ID)
	case "name":
		return pattern(v, n.Name)
	case "scope":
		return v == "local"
	case "type":
		return (v == "builtin") == n.Builtin()
	case "until":
		return n.Created.Before(until)
	}
	return false
}

// pattern is Docker's: a part of the text, or a regular expression.
func pattern(want, have string) bool {
	if strings.Contains(have, want) {
		return true
	}
	re, err := regexp.Compile(want)
	return err == nil && re.MatchString(have)
}
