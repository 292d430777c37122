package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
)

// verboseManifest is what "docker manifest inspect --verbose" shows of one.
type verboseManifest struct {
	Ref              string
	Descriptor       oci.Descriptor
	Raw              []byte          `json:",omitempty"`
	SchemaV2Manifest json.RawMessage `json:",omitempty"`
	OCIManifest      json.RawMessage `json:",omitempty"`
}

// inspectVerbose shows one manifest, or those of a list.
func inspectVerbose(ctx context.Context, e *engine.Engine, s ui.Streams, args []string, o manifestOptions) error {
	name := trimTransport(args[len(args)-1])
	if ref, err := oci.Parse(name); err == nil { // else it is the id of one that is here
		name = ref.WithDefaultTag().String()
	}
	src, root, end, err := manifestSource(ctx, e, args[0], name, o)
	if err != nil {
		return err
	}
	defer end()
	one := func(d oci.Descriptor, data []byte, name string) (verboseManifest, error) {
		m, _, err := oci.ParseManifest(data, d.MediaType)
		if err != nil {
			return verboseManifest{}, err
		}
		v := verboseManifest{Ref: name, Descriptor: d, Raw: data}
		switch {
		case m == nil:
		case m.MediaType == oci.TypeDockerManifest:
			v.SchemaV2Manifest = data
		default:
			v.OCIManifest = data
		}
		if v.Descriptor.Platform == nil && m != nil && m.IsImage() {
			conf, err := src.Document(ctx, m.Config)
			if err != nil {
				return v, err
			}
			img, err := oci.ParseImage(conf)
			if err != nil {
				return v, err
			}
			v.Descriptor.Platform = &img.Platform
		}
		return v, nil
	}
	_, x, err := oci.ParseManifest(root.Data, root.MediaType)
	if err != nil {
		return err
	}
	var shown any
	if x == nil {
		shown, err = one(oci.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: int64(len(root.Data))}, root.Data, name)
	} else {
		var list []verboseManifest
		for _, d := range x.Manifests {
			data, err := src.Document(ctx, d)
			if err != nil {
				return err
			}
			v, err := one(d, data, name+"@"+d.Digest)
			if err != nil {
				return err
			}
			list = append(list, v)
		}
		shown = list
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(shown)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "\t"); err != nil {
		return err
	}
	_, err = fmt.Fprintln(s.Out, out.String())
	return err
}

// manifestSource opens the list that the user means: here, or in a registry by name.
func manifestSource(ctx context.Context, e *engine.Engine, typed, name string, o manifestOptions) (push.Source, oci.Document, func(), error) {
	r, err := e.Reader()
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return nil, oci.Document{}, nil, err
	}
	_, img, err := findList(ctx, r, typed)
	if err == nil {
		l, err := r.List(ctx, img)
		if err == nil {
			src, root, err := e.ListSource(ctx, l, client)
			return src, root, client.Close, err
		}
	}
	var ref oci.Reference
	if k := errs.KindOf(err); k == errs.NotFound || k == errs.Invalid {
		ref, err = oci.Parse(name)
	}
	if err != nil {
		client.Close()
		return nil, oci.Document{}, nil, err
	}
	src, root, err := engine.RemoteSource(ctx, client, ref, true, nil)
	if err != nil {
		client.Close()
		if errs.KindOf(err) == errs.NotFound {
			err = errs.New(errs.NotFound, "no such manifest: "+ref.Familiar())
		}
	}
	return src, root, client.Close, err
}

// NewManifestInspect makes "manifest inspect".
func NewManifestInspect(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o manifestOptions
	var verbose bool
	cmd := &cobra.Command{
		Use:               "inspect [OPTIONS] [LIST] MANIFEST",
		Short:             "Show a manifest list, here or in a registry, or a manifest",
		ValidArgsFunction: complete.Images(e, 2),
		Args:              ui.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.tls(cmd)
			if verbose {
				return inspectVerbose(cmd.Context(), e, s, args, o)
			}
			data, err := inspectManifest(cmd.Context(), e, args, o)
			if err != nil {
				return err
			}
			var out bytes.Buffer
			if err := json.Indent(&out, data, "", "   "); err != nil {
				return errs.E("read the manifest", errs.Invalid, err)
			}
			fmt.Fprintln(s.Out, out.String())
			return nil
		},
	}
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "Show each manifest beside its name and descriptor, as Docker does")
	o.registryFlags(cmd)
	return cmd
}

func inspectManifest(ctx context.Context, e *engine.Engine, args []string, o manifestOptions) ([]byte, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, err
	}
	l, img, err := findList(ctx, r, args[0])
	if err == nil {
		if len(args) == 1 {
			list, err := r.List(ctx, img)
			if err != nil {
				return nil, err
			}
			return list.Index, nil
		}
		i, err := l.find(ctx, e, r, args[1], o)
		if err != nil {
			return nil, err
		}
		return json.Marshal(l.Manifests[i])
	}
	if k := errs.KindOf(err); k != errs.NotFound && k != errs.Invalid {
		return nil, err
	}
	ref, err := oci.Parse(trimTransport(args[len(args)-1]))
	if err != nil {
		return nil, err
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	doc, err := client.Manifest(ctx, ref.WithDefaultTag())
	if errs.KindOf(err) == errs.NotFound {
		return nil, errs.New(errs.NotFound, "no such manifest: "+ref.WithDefaultTag().Familiar())
	}
	return doc.Data, err
}
