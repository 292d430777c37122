package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/registry"
)

type searchOptions struct {
	filters   []string
	limit     int
	noTrunc   bool
	listTags  bool
	table     ui.TableOptions
	registry  engine.PullerOptions
	tlsVerify bool
}

// NewSearch makes "search".
func NewSearch(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o searchOptions
	cmd := &cobra.Command{
		Use:               "search [OPTIONS] TERM",
		Short:             "Search Docker Hub, or another registry, for images",
		Example:           "  cais search --filter is-official=true debian\n  cais search --list-tags quay.io/podman/stable",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("tls-verify") {
				o.registry.TLSVerify = &o.tlsVerify
			}
			keep, err := searchFilter(o.filters)
			if err != nil {
				return err
			}
			if o.limit < 0 || o.limit > 100 {
				return fmt.Errorf("limit %d is outside the range of [1, 100]", o.limit)
			}
			client, _, err := e.Registry(o.registry)
			if err != nil {
				return err
			}
			defer client.Close()
			if o.listTags {
				return listTags(cmd.Context(), s, client, args[0], o)
			}
			return search(cmd.Context(), s, client, args[0], keep, o)
		},
	}
	f := cmd.Flags()
	f.StringArrayVarP(&o.filters, "filter", "f", nil, "Show only what matches `KEY=VALUE`: stars, is-official, is-automated")
	f.StringVar(&o.table.Format, "format", "", "Print in a `form`: table, table TEMPLATE, json, or a Go template")
	f.IntVar(&o.limit, "limit", 0, "Most results to show (default 25)")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "Do not shorten")
	f.Bool("compatible", true, "Accepted: this is Docker's output")
	_ = f.MarkHidden("compatible")
	f.BoolVar(&o.listTags, "list-tags", false, "Show the tags of the repository TERM")
	f.StringVar(&o.registry.AuthFile, "authfile", "", "Read credentials from this `file` only")
	f.StringVar(&o.registry.CertDir, "cert-dir", "", "Read certificates and keys from this `directory`")
	f.StringVar(&o.registry.Creds, "creds", "", "Log in as `USER:PASSWORD`")
	f.BoolVar(&o.tlsVerify, "tls-verify", true, "Demand TLS with a certificate that can be verified")
	return cmd
}

// searchFilter reads --filter.
func searchFilter(args []string) (func(registry.Found) bool, error) {
	var tests []func(registry.Found) bool
	for _, a := range args {
		k, v, ok := strings.Cut(a, "=")
		if !ok {
			return nil, ui.Exit(ui.CodeUsage, fmt.Errorf("invalid argument %q for \"-f, --filter\" flag: bad format of filter (expected name=value)", a))
		}
		switch k {
		case "stars":
			n, err := strconv.Atoi(v)
			if err != nil {
				return nil, fmt.Errorf("invalid filter 'stars=%s'", v)
			}
			tests = append(tests, func(f registry.Found) bool { return f.Stars >= n })
		case "is-official", "is-automated":
			want, err := strconv.ParseBool(v)
			if err != nil {
				return nil, fmt.Errorf("invalid filter '%s=%s'", k, v)
			}
			tests = append(tests, func(f registry.Found) bool {
				if k == "is-official" {
					return f.Official == want
				}
				return f.Automated == want
			})
		default:
			return nil, fmt.Errorf("invalid filter '%s'", k)
		}
	}
	return func(f registry.Found) bool {
		return !slices.ContainsFunc(tests, func(t func(registry.Found) bool) bool { return !t(f) })
	}, nil
}

// searcher is what search needs of a registry.
type searcher interface {
	Search(ctx context.Context, host, term string, limit int) ([]registry.Found, error)
	Tags(ctx context.Context, ref oci.Reference) ([]string, error)
}

func search(ctx context.Context, s ui.Streams, c searcher, term string, keep func(registry.Found) bool, o searchOptions) error {
	limit := o.limit
	if limit == 0 {
		limit = 25
	}
	host := ""
	if first, rest, ok := strings.Cut(term, "/"); ok && (strings.ContainsAny(first, ".:") || first == "localhost") {
		host, term = first, rest
		if host == "docker.io" || host == "index.docker.io" {
			host = ""
		}
	}
	if term == "" {
		return errors.New("search needs a word to search for")
	}
	found, err := c.Search(ctx, host, term, limit)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(f registry.Found) bool { return !keep(f) })
	return searchTable(o).Write(s.Out, found, o.table)
}

func searchTable(o searchOptions) ui.Table[registry.Found] {
	ok := func(is bool) string {
		if is {
			return "[OK]"
		}
		return ""
	}
	return ui.Table[registry.Found]{
		Type: "*formatter.searchContext",
		Fields: []ui.Field[registry.Found]{
			{Name: "Name", Header: "NAME", Value: func(r registry.Found) any { return r.Name }},
			{Name: "Description", Header: "DESCRIPTION", Value: func(r registry.Found) any {
				text := strings.NewReplacer("\n", " ", "\r", " ").Replace(r.Description)
				if o.noTrunc {
					return text
				}
				return ui.Ellipsis(text, 45)
			}},
			{Name: "StarCount", Header: "STARS", Value: func(r registry.Found) any { return strconv.Itoa(r.Stars) }},
			{Name: "IsOfficial", Header: "OFFICIAL", Value: func(r registry.Found) any { return ok(r.Official) }},
			{Name: "IsAutomated", Header: "AUTOMATED", Value: func(r registry.Found) any { return ok(r.Automated) }},
		},
		Columns: []string{"Name", "Description", "StarCount", "IsOfficial"},
	}
}

// taggedName is a line of --list-tags.
type taggedName struct{ name, tag string }

func listTags(ctx context.Context, s ui.Streams, c searcher, typed string, o searchOptions) error {
	ref, err := oci.Parse(trimTransport(typed))
	if err != nil {
		return err
	}
	if ref.Tag != "" || ref.Digest != "" {
		return fmt.Errorf("reference %q must be a repository, without a tag", typed)
	}
	tags, err := c.Tags(ctx, ref)
	if err != nil {
		return err
	}
	if limit := o.limit; limit > 0 && len(tags) > limit || limit == 0 && len(tags) > 25 {
		if limit == 0 {
			limit = 25
		}
		tags = tags[:limit]
	}
	var rows []taggedName
	for _, t := range tags {
		rows = append(rows, taggedName{ref.Name(), t})
	}
	return ui.Table[taggedName]{
		Type: "*formatter.tagContext",
		Fields: []ui.Field[taggedName]{
			{Name: "Name", Header: "NAME", Value: func(r taggedName) any { return r.name }},
			{Name: "Tag", Header: "TAG", Value: func(r taggedName) any { return r.tag }},
		},
		Columns: []string{"Name", "Tag"},
	}.Write(s.Out, rows, o.table)
}
