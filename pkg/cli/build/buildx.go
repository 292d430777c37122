package build

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// What scripts that ask for versions are told: those whose flags and Dockerfiles
// build understands.
const (
	buildxVersion   = "v0.33.0"
	buildkitVersion = "v0.33.1"
)

// There is one builder, which needs nothing to be started: commands about
// builders answer for it, whatever it is called.

// simple makes a command without flags of its own.
func simple(use, short string, args cobra.PositionalArgs, run func(args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args, ValidArgsFunction: complete.None,
		RunE: func(_ *cobra.Command, args []string) error { return run(args) },
	}
}

// NewBuildxVersion makes "buildx version".
func NewBuildxVersion(e *engine.Engine, s ui.Streams) *cobra.Command {
	return simple("version", "Show the version of buildx that cais stands in for", ui.NoArgs, func([]string) error {
		_, err := fmt.Fprintf(s.Out, "github.com/docker/buildx %s cais-%s\n", buildxVersion, e.Build().Version)
		return err
	})
}

func platformNames() string { return oci.HostPlatform().Normalize().String() }

// NewBuildxLs makes "buildx ls".
func NewBuildxLs(_ *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := simple("ls [OPTIONS]", "List the builders, of which there is one", ui.NoArgs, func([]string) error {
		if format != "" && format != "table" {
			return ui.Print(s.Out, struct {
				Name, Driver, Status string
				Current              bool
				DriverEndpoint       string
				Platforms            []string
			}{"default", "docker", "running", true, "default", []string{platformNames()}}, format, ui.CodeTemplate)
		}
		w := ui.NewTabWriter(s.Out)
		fmt.Fprintf(w, "NAME/NODE\tDRIVER/ENDPOINT\tSTATUS\tBUILDKIT\tPLATFORMS\n")
		fmt.Fprintf(w, "default*\tdocker\t\t\t\n")
		fmt.Fprintf(w, " \\_ default\t \\_ default\trunning\t%s\t%s\n", buildkitVersion, platformNames())
		return w.Flush()
	})
	cmd.Flags().StringVar(&format, "format", "", "Print in this `format`: json, or a template")
	cmd.Flags().Bool("no-trunc", false, "Accepted: nothing is cut")
	_ = cmd.Flags().MarkHidden("no-trunc")
	return cmd
}

// NewBuildxInspect makes "buildx inspect".
func NewBuildxInspect(_ *engine.Engine, s ui.Streams) *cobra.Command {
	cmd := simple("inspect [NAME]", "Show the builder", ui.MaxArgs(1), func(args []string) error {
		name := "default"
		if len(args) > 0 {
			name = args[0]
		}
		w := ui.NewTabWriter(s.Out)
		fmt.Fprintf(w, "Name:\t%s\nDriver:\tdocker\n\nNodes:\nName:\t%s\nEndpoint:\tdefault\nStatus:\trunning\nBuildKit version:\t%s\nPlatforms:\t%s\n",
			name, name, buildkitVersion, platformNames())
		return w.Flush()
	})
	cmd.Flags().Bool("bootstrap", false, "Accepted: there is nothing to start")
	cmd.Flags().String("builder", "", "Accepted: there is one builder")
	return cmd
}

// NewBuildxCreate makes "buildx create".
func NewBuildxCreate(_ *engine.Engine, s ui.Streams) *cobra.Command {
	var name, driver string
	cmd := simple("create [OPTIONS] [CONTEXT|ENDPOINT]", "Name the builder; there is one, which is used by any name", ui.MaxArgs(1), func(args []string) error {
		switch driver {
		case "", "docker", "docker-container":
		default:
			return errs.New(errs.Unsupported, fmt.Sprintf("buildx create --driver %s is not supported: builds run on this machine", driver))
		}
		if len(args) > 0 && args[0] != "default" {
			return errs.New(errs.Unsupported, fmt.Sprintf("buildx create %s: builds run on this machine", args[0]))
		}
		if name == "" {
			name = "default"
		}
		_, err := fmt.Fprintln(s.Out, name)
		return err
	})
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "`Name` of the builder")
	f.StringVar(&driver, "driver", "", "docker or docker-container, which are the same here")
	f.Bool("use", false, "Accepted: it is used anyway")
	f.Bool("bootstrap", false, "Accepted: there is nothing to start")
	f.Bool("append", false, "Without effect: there is one node")
	f.Bool("leave", false, "Without effect: there is one node")
	f.String("node", "", "Without effect: there is one node")
	f.StringArray("driver-opt", nil, "Without effect: there is no daemon")
	f.StringArray("platform", nil, "Without effect: say at each build for what it is")
	f.String("buildkitd-flags", "", "Without effect: there is no daemon")
	f.String("buildkitd-config", "", "Without effect: there is no daemon")
	f.String("config", "", "Without effect: there is no daemon")
	for _, n := range []string{"append", "leave", "node", "driver-opt", "platform", "buildkitd-flags", "buildkitd-config", "config"} {
		_ = f.MarkHidden(n)
	}
	return cmd
}

// NewBuildxUse makes "buildx use".
func NewBuildxUse(*engine.Engine, ui.Streams) *cobra.Command {
	cmd := simple("use NAME", "Use the builder, which is used anyway", ui.ExactArgs(1), func([]string) error { return nil })
	cmd.Flags().Bool("default", false, "Accepted: it is the default")
	cmd.Flags().Bool("global", false, "Accepted: it is used everywhere")
	return cmd
}

// NewBuildxRm makes "buildx rm".
func NewBuildxRm(_ *engine.Engine, s ui.Streams) *cobra.Command {
	cmd := simple("rm [NAME...]", "Forget a builder's name", cobra.ArbitraryArgs, func(args []string) error {
		for _, a := range args {
			fmt.Fprintln(s.Err, a, "removed")
		}
		return nil
	})
	f := cmd.Flags()
	f.Bool("all-inactive", false, "Accepted: there is none")
	f.BoolP("force", "f", false, "Accepted: nothing is asked")
	f.Bool("keep-state", false, "Accepted: the cache stays")
	f.Bool("keep-daemon", false, "Accepted: there is none")
	return cmd
}

// NewBuildxStop makes "buildx stop".
func NewBuildxStop(*engine.Engine, ui.Streams) *cobra.Command {
	return simple("stop [NAME]", "Stop the builder, which does not run between builds", ui.MaxArgs(1), func([]string) error { return nil })
}

// NewImagetoolsInspect makes "buildx imagetools inspect".
func NewImagetoolsInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var raw bool
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] NAME", Short: "Show the manifest that a registry has", Args: ui.ExactArgs(1), ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, args []string) error {
			ref, err := oci.Parse(args[0])
			if err != nil {
				return err
			}
			ref = ref.WithDefaultTag()
			client, _, err := e.Registry(engine.PullerOptions{})
			if err != nil {
				return err
			}
			defer client.Close()
			doc, err := client.Manifest(cmd.Context(), ref)
			if err != nil {
				return err
			}
			if raw {
				_, err := s.Out.Write(doc.Data)
				return err
			}
			return showManifest(s, ref, doc, format)
		},
	}
	cmd.Flags().BoolVar(&raw, "raw", false, "Print the manifest as it is")
	cmd.Flags().StringVar(&format, "format", "", "Print in this `format`: a template with .Name and .Manifest")
	cmd.Flags().String("builder", "", "Accepted: there is one builder")
	_ = cmd.Flags().MarkHidden("builder")
	return cmd
}

func showManifest(s ui.Streams, ref oci.Reference, doc oci.Document, format string) error {
	m, index, err := oci.ParseManifest(doc.Data, doc.MediaType)
	if err != nil {
		return err
	}
	if format != "" {
		var content map[string]any
		if err := json.Unmarshal(doc.Data, &content); err != nil {
			return err
		}
		content["digest"], content["size"] = doc.Digest, len(doc.Data)
		content["mediaType"] = doc.MediaType
		// Templates name the fields of buildx's structures, or the JSON keys.
		content["Digest"], content["MediaType"], content["Size"] = doc.Digest, doc.MediaType, len(doc.Data)
		if strings.Contains(format, "json .Manifest") {
			for _, k := range []string{"Digest", "MediaType", "Size"} {
				delete(content, k)
			}
		}
		return ui.Print(s.Out, map[string]any{"Name": ref.String(), "Manifest": content}, format, ui.CodeTemplate)
	}
	w := ui.NewTabWriter(s.Out)
	fmt.Fprintf(w, "Name:\t%s\nMediaType:\t%s\nDigest:\t%s\n", ref.String(), doc.MediaType, doc.Digest)
	if m == nil && index != nil {
		fmt.Fprintf(w, "\t\nManifests:\t\n")
		for _, d := range index.Manifests {
			fmt.Fprintf(w, "  Name:\t%s@%s\n  MediaType:\t%s\n", ref.Name(), d.Digest, d.MediaType)
			if d.Platform != nil {
				fmt.Fprintf(w, "  Platform:\t%s\n", d.Platform.String())
			}
			fmt.Fprintf(w, "\t\n")
		}
	}
	return errors.Join(w.Flush())
}
