package secret

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/flags"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/secret"
	"cais.dev/cais/pkg/units"
)

// NewLs makes "secret ls".
func NewLs(e *engine.Engine, s ui.Streams) *cobra.Command {
	var filters []string
	var o ui.TableOptions
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List secrets",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(*cobra.Command, []string) error {
			values, err := flags.Filters("-f, --filter", filters, "name", "id", "label")
			if err != nil {
				return err
			}
			store, err := open(e)
			if err != nil {
				return err
			}
			all, err := store.List()
			if err != nil {
				return err
			}
			all = slices.DeleteFunc(all, func(sec *secret.Secret) bool { return !matches(sec, values) })
			return table(time.Now()).Write(s.Out, all, o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&filters, "filter", "f", nil, "List only what matches `KEY=VALUE`: name, id, label")
	f.StringVar(&o.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, or a Go template")
	f.BoolVarP(&o.Quiet, "quiet", "q", false, "Print ids only")
	f.BoolVarP(&o.NoHeading, "noheading", "n", false, "Leave the table's header out")
	return cmd
}

// matches reports whether one value of each key fits; of labels, all.
func matches(sec *secret.Secret, values map[string][]string) bool {
	for _, l := range values["label"] {
		k, v, given := strings.Cut(l, "=")
		if have, ok := sec.Labels[k]; !ok || given && have != v {
			return false
		}
	}
	fits := func(key, have string, fit func(s, want string) bool) bool {
		return len(values[key]) == 0 || slices.ContainsFunc(values[key], func(want string) bool { return fit(have, want) })
	}
	return fits("name", sec.Name, strings.Contains) && fits("id", sec.ID, strings.HasPrefix)
}

func table(now time.Time) ui.Table[*secret.Secret] {
	return ui.Table[*secret.Secret]{
		Type: "*formatter.secretContext",
		Fields: []ui.Field[*secret.Secret]{
			{Name: "ID", Header: "ID", Value: func(s *secret.Secret) any { return s.ID }},
			{Name: "Name", Header: "NAME", Value: func(s *secret.Secret) any { return s.Name }},
			{Name: "Driver", Header: "DRIVER", Value: func(*secret.Secret) any { return driver }},
			{Name: "CreatedAt", Header: "CREATED", Value: func(s *secret.Secret) any { return units.Ago(s.Created, now) }},
			{Name: "UpdatedAt", Header: "UPDATED", Value: func(s *secret.Secret) any { return units.Ago(s.Updated, now) }},
			{Name: "Labels", Header: "LABELS", Value: func(s *secret.Secret) any { return ui.Labels(s.Labels) }},
		},
		Columns: []string{"ID", "Name", "Driver", "CreatedAt", "UpdatedAt"},
		Quiet:   "ID",
		Label:   func(s *secret.Secret, key string) string { return s.Labels[key] },
	}
}
