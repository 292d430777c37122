package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
)

// loader is what load needs of the service.
type loader interface {
	Load(ctx context.Context, req pull.LoadRequest) ([]pull.Loaded, error)
}

// NewLoad makes "load", "image load".
func NewLoad(e *engine.Engine, s ui.Streams) *cobra.Command {
	var path, platform string
	var quiet bool
	var o engine.PullerOptions
	cmd := &cobra.Command{
		Use:               "load [OPTIONS]",
		Short:             "Take images from what save wrote: Docker's archive, an OCI archive or layout",
		Example:           "  cais load -i images.tar\n  docker save debian | cais load",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			req := pull.LoadRequest{Name: "stdin", In: s.In}
			if platform != "" {
				p, err := oci.ParsePlatform(platform, oci.HostPlatform())
				if err != nil {
					return err
				}
				req.Platform = &p
			}
			if path == "" && s.InTerminal() {
				return errors.New("requested load from stdin, but stdin is empty")
			}
			url := strings.HasPrefix(path, "http://") || strings.HasPrefix(path, "https://")
			if path != "" && !url {
				f, err := os.Open(path)
				if err != nil {
					return err
				}
				defer f.Close()
				req.In, req.Name = f, path
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			if url { // as Podman takes it, too
				in, _, err := openSource(cmd.Context(), s, path)
				if err != nil {
					return fmt.Errorf("load %s: %w", path, err)
				}
				defer in.Close()
				req.In, req.Name = in, path
			}
			p, end, err := e.Puller(o)
			if err != nil {
				return err
			}
			told := func(l pull.Loaded) {
				e.Note(imageEvent("load", "sha256:"+l.ID, "sha256:"+l.ID, labelsOf(cmd.Context(), e, l.ID)))
			}
			return errors.Join(load(cmd.Context(), s, p, req, quiet, told), end())
		},
	}
	f := cmd.Flags()
	f.StringVarP(&path, "input", "i", "", "Read this `file`, directory or http(s) URL instead of stdin")
	f.StringVar(&platform, "platform", "", "Of an image for several platforms, take `OS[/ARCH[/VARIANT]]`")
	f.BoolVarP(&quiet, "quiet", "q", false, "Show no progress")
	storeFlags(f, &o)
	_ = cmd.MarkFlagFilename("input")
	return cmd
}

// load prints what was loaded, also beside a failure.
func load(ctx context.Context, s ui.Streams, l loader, req pull.LoadRequest, quiet bool, told func(pull.Loaded)) error {
	progress := ui.NewProgress(s)
	if !quiet && s.ErrTerminal() { // elsewhere Docker shows none either
		req.Events = progress.Pull
	}
	loaded, err := l.Load(ctx, req)
	progress.Close()
	for _, img := range loaded {
		told(img)
		for _, line := range img.Lines() {
			if _, werr := fmt.Fprintln(s.Out, line); werr != nil {
				return errors.Join(err, werr)
			}
		}
	}
	return err
}
