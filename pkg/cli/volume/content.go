package volume

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// NewExport makes "volume export".
func NewExport(e *engine.Engine, s ui.Streams) *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "export [OPTIONS] VOLUME",
		Short:             "Write a volume's files as a tar",
		Args:              ui.ExactArgs(1),
		ValidArgsFunction: complete.Volumes(e, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			write := func(w io.Writer) error { return svc.ExportVolume(cmd.Context(), args[0], w) }
			switch {
			case output != "":
				return ui.Whole(output, write)
			case s.OutTerminal():
				return errors.New("cowardly refusing to save to a terminal. Use the -o flag or redirect")
			}
			return write(s.Out)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "Write to this `file`, instead of stdout")
	return cmd
}

// NewImport makes "volume import".
func NewImport(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:     "import VOLUME FILE|-",
		Short:   "Add the files of a tar to a volume's",
		Example: "  cais volume export -o data.tar data\n  cais volume create copy\n  cais volume import copy data.tar",
		Args:    ui.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			svc, err := e.Containers()
			if err != nil {
				return err
			}
			in := s.In
			if args[1] != "-" {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			return svc.ImportVolume(cmd.Context(), args[0], in)
		},
	}
}

// NewMount makes "volume mount": podman's, for volumes whose content is there anyway.
func NewMount(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "mount VOLUME [VOLUME...]",
		Short:             "Print where the files of volumes are",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Volumes(e, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			return ui.InspectAll(s.Out, args, "{{.Mountpoint}}", func(ref string) (any, error) { return Inspect(e, ref) })
		},
	}
}

// NewUnmount makes "volume unmount".
func NewUnmount(e *engine.Engine, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:               "unmount VOLUME [VOLUME...]",
		Short:             "Take back 'volume mount', which mounts nothing",
		Args:              ui.MinArgs(1),
		ValidArgsFunction: complete.Volumes(e, -1),
		RunE: func(_ *cobra.Command, args []string) error {
			var failed []error
			for _, name := range args {
				if _, err := Inspect(e, name); err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintln(s.Out, name)
			}
			return errors.Join(failed...)
		},
	}
}
