package system

import (
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// There is one context, which tools ask for before they do anything else.
const (
	contextName = "default"
	contextText = "Current DOCKER_HOST based configuration"
	// contextHost is where Docker's clients look without a context.
	contextHost = "unix:///var/run/docker.sock"
)

func noContext(name string) error {
	err := errs.New(errs.NotFound, fmt.Sprintf("context %q does not exist", name))
	return errs.WithHint(err, `cais works on this machine only: its one context is "default".`)
}

// dockerContext is a context as Docker shows it.
type dockerContext struct {
	Name        string
	Metadata    struct{}
	Endpoints   map[string]contextEndpoint
	TLSMaterial struct{}
	Storage     struct{ MetadataPath, TLSPath string }
}

type contextEndpoint struct {
	Host          string
	SkipTLSVerify bool
}

func defaultContext() *dockerContext {
	c := &dockerContext{Name: contextName, Endpoints: map[string]contextEndpoint{"docker": {Host: contextHost}}}
	c.Storage.MetadataPath, c.Storage.TLSPath = "<IN MEMORY>", "<IN MEMORY>"
	return c
}

// NewContextInspect makes "context inspect".
func NewContextInspect(_ *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] [CONTEXT] [CONTEXT...]",
		Short:             "Show what is known of contexts, which is that there is one",
		ValidArgsFunction: complete.Words(contextName),
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{contextName}
			}
			return ui.InspectAll(s.Out, args, format, func(name string) (any, error) {
				if name != contextName {
					return nil, noContext(name)
				}
				return defaultContext(), nil
			})
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	return cmd
}

// NewContextLs makes "context ls".
func NewContextLs(_ *engine.Engine, s ui.Streams) *cobra.Command {
	var o ui.TableOptions
	cmd := &cobra.Command{
		Use:               "ls [OPTIONS]",
		Short:             "List contexts, of which there is one",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(*cobra.Command, []string) error {
			if !o.Quiet && (o.Format == "" || o.Format == "table") {
				o.Format = `table {{.Name}}{{if .Current}} *{{end}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}`
			}
			type c = *dockerContext
			return ui.Table[c]{
				Type: "*formatter.clientContextContext",
				Fields: []ui.Field[c]{
					{Name: "Name", Header: "NAME", Value: func(c c) any { return c.Name }},
					{Name: "Description", Header: "DESCRIPTION", Value: func(c) any { return contextText }},
					{Name: "DockerEndpoint", Header: "DOCKER ENDPOINT", Value: func(c c) any { return c.Endpoints["docker"].Host }},
					{Name: "Current", Value: func(c) any { return true }},
					{Name: "Error", Header: "ERROR", Value: func(c) any { return "" }},
				},
				Columns: []string{"Name", "Description", "DockerEndpoint", "Error"},
				Quiet:   "Name",
			}.Write(s.Out, []c{defaultContext()}, o)
		},
	}
	cmd.Flags().StringVar(&o.Format, "format", "", "Print in a `form`: table, json, or a Go template")
	cmd.Flags().BoolVarP(&o.Quiet, "quiet", "q", false, "Print names only")
	return cmd
}

// NewContextShow makes "context show".
func NewContextShow(_ *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "show",
		Short:             "Print the context's name",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(s.Out, contextName)
			return err
		},
	}
}

// NewContextUse makes "context use".
func NewContextUse(_ *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "use CONTEXT",
		Short:             "Choose the context, which is the default one",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Words(contextName),
		RunE: func(_ *cobra.Command, args []string) error {
			if args[0] != contextName {
				return noContext(args[0])
			}
			fmt.Fprintln(s.Out, contextName)
			fmt.Fprintf(s.Err, "Current context is now %q\n", contextName)
			return nil
		},
	}
}
