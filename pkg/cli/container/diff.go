package container

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewDiff makes "diff", "container diff".
func NewDiff(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "diff CONTAINER",
		Short:             "Show what a container changed in its files: A added, C changed, D deleted",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Containers(e, 1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			if format != "" && format != "json" {
				return ui.Exit(ui.CodeUsage, fmt.Errorf("--format %q: only json is there", format))
			}
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			list, err := svc.Diff(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if format == "json" {
				words := map[byte]string{'A': "added", 'C': "changed", 'D': "deleted"}
				by := map[string][]string{}
				for _, c := range list {
					by[words[c.Kind]] = append(by[words[c.Kind]], c.Path)
				}
				return json.NewEncoder(s.Out).Encode(by)
			}
			w := bufio.NewWriter(s.Out)
			for _, c := range list {
				fmt.Fprintf(w, "%c %s\n", c.Kind, ui.OneLine(c.Path)) // as it is: --format json
			}
			return w.Flush()
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "Print in a `form`: json")
	return cmd
}

// NewExport makes "export", "container export".
func NewExport(e *engine.Engine, s ui.Streams) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] CONTAINER",
		Short:             "Write a container's files as a tar",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Containers(e, 1, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			if output == "" {
				if s.OutTerminal() {
					return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
				}
				return svc.Export(cmd.Context(), args[0], s.Out)
			}
			return ui.Whole(output, func(w io.Writer) error { return svc.Export(cmd.Context(), args[0], w) })
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to this `file`, instead of stdout")
	return cmd
}
