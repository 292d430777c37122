package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

// manifestList is a list as it is edited.
type manifestList struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []oci.Descriptor  `json:"manifests"`
	Annotations   map[string]string `json:"annotations,omitempty"`

	id        string
	names     []string
	instances map[string]string
}

// findList finds a list in the store; NotFound if the name is another image's.
func findList(ctx context.Context, r *storage.Reader, typed string) (*manifestList, *storage.Image, error) {
	img, err := findImage(ctx, r, typed)
	if err != nil {
		return nil, nil, err
	}
	if !img.IsList() {
		return nil, img, errs.New(errs.Invalid, fmt.Sprintf("%s is an image, not a manifest list", typed))
	}
	stored, err := r.List(ctx, img)
	if err != nil {
		return nil, nil, err
	}
	l := &manifestList{id: img.ID, names: img.Names, instances: map[string]string{}}
	if err := json.Unmarshal(stored.Index, l); err != nil {
		return nil, nil, errs.E("read manifest list "+typed, errs.Invalid, err)
	}
	if len(stored.Instances) > 0 {
		if err := json.Unmarshal(stored.Instances, &l.instances); err != nil {
			return nil, nil, errs.E("read manifest list "+typed, errs.Invalid, err)
		}
	}
	return l, img, nil
}

// editing is changing, of manifest lists: by one process at a time.
func editing(ctx context.Context, e *engine.Engine, do func(*storage.Store) error) error {
	return changing(ctx, e, func(st *storage.Store) error {
		release, err := st.LockLists(ctx)
		if err != nil {
			return err
		}
		defer release()
		return do(st)
	})
}

// put records a list and prints its id.
func (l *manifestList) put(st *storage.Store, s ui.Streams) error {
	if l.Manifests == nil {
		l.Manifests = []oci.Descriptor{}
	}
	index, err := json.Marshal(l)
	if err != nil {
		return err
	}
	instances, err := json.Marshal(l.instances)
	if err != nil {
		return err
	}
	id, err := st.PutList(storage.List{ID: l.id, Names: l.names, Index: index, Instances: instances})
	if err == nil {
		fmt.Fprintln(s.Out, id)
	}
	return err
}

type manifestOptions struct {
	all, amend, insecure bool
	annotations          []string
	os, arch, variant    string
	osVersion            string
	osFeatures, features []string
	registry             engine.PullerOptions
	tlsVerify            bool
}

func (o *manifestOptions) registryFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	registryFlags(f, &o.registry, &o.tlsVerify)
	f.BoolVar(&o.insecure, "insecure", false, "Speak to registries without TLS, too")
}

// tls reads the flags about TLS.
func (o *manifestOptions) tls(cmd *cobra.Command) {
	if cmd.Flags().Changed("tls-verify") {
		o.registry.TLSVerify = &o.tlsVerify
	} else if o.insecure {
		no := false
		o.registry.TLSVerify = &no
	}
}

func (o *manifestOptions) platformFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.os, "os", "", "Operating `system`")
	f.StringVar(&o.arch, "arch", "", "`Architecture`")
	f.StringVar(&o.variant, "variant", "", "`Variant` of the architecture")
	f.StringVar(&o.osVersion, "os-version", "", "Operating system's `version`")
	f.StringSliceVar(&o.osFeatures, "os-features", nil, "Operating system's `features`")
	f.StringSliceVar(&o.features, "features", nil, "Docker's `features`, which no tool reads")
	_ = f.MarkHidden("features")
	f.StringArrayVar(&o.annotations, "annotation", nil, "Annotation `KEY=VALUE`")
}

// apply puts what the flags say into an entry.
func (o *manifestOptions) apply(d *oci.Descriptor) error {
	p := oci.Platform{}
	if d.Platform != nil {
		p = *d.Platform
	}
	for _, v := range []struct {
		flag string
		to   *string
	}{{o.os, &p.OS}, {o.arch, &p.Architecture}, {o.variant, &p.Variant}, {o.osVersion, &p.OSVersion}} {
		if v.flag != "" {
			*v.to = v.flag
		}
	}
	if len(o.osFeatures) > 0 {
		p.OSFeatures = o.osFeatures
	}
	if p.OS != "" || p.Architecture != "" {
		d.Platform = &p
	}
	for _, a := range o.annotations {
		k, v, ok := strings.Cut(a, "=")
		if !ok || k == "" {
			return ui.Exit(ui.CodeUsage, fmt.Errorf("no value given for annotation %q", a))
		}
		if d.Annotations == nil {
			d.Annotations = map[string]string{}
		}
		d.Annotations[k] = v
	}
	return nil
}

// applyTo puts them into the list itself.
func (o *manifestOptions) applyTo(l *manifestList) error {
	d := oci.Descriptor{Annotations: l.Annotations}
	err := o.apply(&d)
	l.Annotations = d.Annotations
	return err
}

// find finds an entry by its digest or by the image that it is.
func (l *manifestList) find(ctx context.Context, e *engine.Engine, r *storage.Reader, typed string, o manifestOptions) (int, error) {
	is := func(digest string) func(oci.Descriptor) bool {
		return func(d oci.Descriptor) bool { return d.Digest == digest }
	}
	if i := slices.IndexFunc(l.Manifests, is(typed)); i >= 0 {
		return i, nil
	}
	if ref, err := oci.Parse(trimTransport(typed)); err == nil {
		if i := slices.IndexFunc(l.Manifests, is(ref.Digest)); i >= 0 {
			return i, nil
		}
		for i, d := range l.Manifests {
			if from := l.instances[d.Digest]; from == "docker://"+ref.WithDefaultTag().String() || from == "containers-storage:"+ref.WithDefaultTag().String() {
				return i, nil
			}
		}
	}
	client, _, err := e.Registry(o.registry)
	if err != nil {
		return 0, err
	}
	defer client.Close()
	found, _, err := instances(ctx, client, r, typed, false)
	if err != nil {
		return 0, err
	}
	if i := slices.IndexFunc(l.Manifests, is(found[0].Digest)); i >= 0 {
		return i, nil
	}
	return 0, errs.New(errs.NotFound, fmt.Sprintf("the manifest list has no image %s", typed))
}
