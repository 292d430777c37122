package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/push"
	"cais.dev/cais/pkg/registry"
	"cais.dev/cais/pkg/storage"
)

// listed is a manifest list of the store as a source: its images are in the store
// or where the list says that they are from.
type listed struct {
	e         *Engine
	r         *storage.Reader
	c         *registry.Client
	instances map[string]string
	images    []*storage.Image
	owners    map[string]push.Source // by digest of a config or a layer
}

// OfList returns the image of a manifest list for a platform (nil: this machine's)
// if img is a list, else img.
func OfList(ctx context.Context, r *storage.Reader, img *storage.Image, platform *oci.Platform) (*storage.Image, error) {
	if !img.IsList() {
		return img, nil
	}
	l, err := r.List(ctx, img)
	if err != nil {
		return nil, err
	}
	_, x, err := oci.ParseManifest(l.Index, "")
	if err != nil {
		return nil, err
	}
	want := oci.HostPlatform()
	if platform != nil {
		want = *platform
	}
	if x == nil || oci.Select(x.Manifests, want) < 0 {
		return nil, errs.New(errs.NotFound, fmt.Sprintf("the manifest list has no image for %s", want))
	}
	d := x.Manifests[oci.Select(x.Manifests, want)]
	all, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		if !i.IsList() && slices.Contains(i.Digests, d.Digest) {
			return i, nil
		}
	}
	return nil, errs.WithHint(errs.New(errs.NotFound, fmt.Sprintf("the manifest list's image for %s (%s) is not in the store", want, d.Digest)), "Pull it: the list only names it.")
}

// ListSource returns a manifest list of the store as a source, and its index.
func (e *Engine) ListSource(ctx context.Context, l *storage.List, c *registry.Client) (push.Source, oci.Document, error) {
	r, err := e.Reader()
	if err != nil {
		return nil, oci.Document{}, err
	}
	s := &listed{e: e, r: r, c: c, instances: map[string]string{}, owners: map[string]push.Source{}}
	if len(l.Instances) > 0 {
		if err := json.Unmarshal(l.Instances, &s.instances); err != nil {
			return nil, oci.Document{}, errs.E("read the list's instances", errs.Invalid, err)
		}
	}
	if s.images, err = r.Images(ctx); err != nil {
		return nil, oci.Document{}, err
	}
	_, x, err := oci.ParseManifest(l.Index, "")
	if err != nil {
		return nil, oci.Document{}, err
	}
	if x == nil {
		return nil, oci.Document{}, errs.New(errs.Invalid, "the list in the store is not an index")
	}
	return s, oci.Document{MediaType: x.MediaType, Digest: oci.Digest(l.Index), Data: l.Index}, nil
}

// PartOfList is ListSource with an index of the images for these platforms alone.
// It is NotFound if the list lacks one of them.
func (e *Engine) PartOfList(ctx context.Context, l *storage.List, platforms []oci.Platform) (push.Source, oci.Document, error) {
	src, root, err := e.ListSource(ctx, l, nil)
	if err != nil {
		return nil, root, err
	}
	_, x, err := oci.ParseManifest(root.Data, root.MediaType)
	if err != nil {
		return nil, root, err
	}
	var part []oci.Descriptor
	for _, p := range platforms {
		i := oci.Select(x.Manifests, p)
		if i < 0 {
			return nil, root, errs.New(errs.NotFound, fmt.Sprintf("the manifest list has no image for %s", p))
		}
		if d := x.Manifests[i]; !slices.ContainsFunc(part, func(o oci.Descriptor) bool { return o.Digest == d.Digest }) {
			part = append(part, d)
		}
	}
	data, err := json.Marshal(struct {
		SchemaVersion int              `json:"schemaVersion"`
		MediaType     string           `json:"mediaType"`
		Manifests     []oci.Descriptor `json:"manifests"`
	}{2, root.MediaType, part})
	return src, oci.Document{MediaType: root.MediaType, Digest: oci.Digest(data), Data: data}, err
}

func (s *listed) Document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	if owner := s.owners[d.Digest]; owner != nil {
		return owner.Document(ctx, d)
	}
	data, owner, err := s.manifest(ctx, d)
	if err != nil {
		return nil, err
	}
	m, _, err := oci.ParseManifest(data, d.MediaType)
	if err != nil {
		return nil, err
	}
	if m != nil {
		s.owners[m.Config.Digest] = owner
		for _, l := range m.Layers {
			s.owners[l.Digest] = owner
		}
	}
	return data, nil
}

// manifest finds one of the list's manifests and who has the rest of it.
func (s *listed) manifest(ctx context.Context, d oci.Descriptor) ([]byte, push.Source, error) {
	for _, img := range s.images {
		if img.IsList() || !slices.Contains(img.Digests, d.Digest) {
			continue
		}
		data, err := s.r.Document(ctx, img, "manifest-"+d.Digest)
		if err != nil && img.Digest == d.Digest {
			data, err = s.r.Manifest(ctx, img)
		}
		if err != nil || oci.Digest(data) != d.Digest {
			continue
		}
		owner, _, err := s.e.ImageSource(ctx, img, "")
		return data, owner, err
	}
	from, ok := strings.CutPrefix(s.instances[d.Digest], "docker://")
	if !ok {
		return nil, nil, errs.New(errs.NotFound, "the image "+d.Digest+" of the list is not in the store, and the list does not say where it is")
	}
	ref, err := oci.Parse(from)
	if err != nil {
		return nil, nil, err
	}
	if s.c == nil {
		return nil, nil, errs.WithHint(errs.New(errs.NotFound, "the image "+d.Digest+" of the list is not in the store"), "Pull it: the list only names it.")
	}
	owner := remote{s.c, ref}
	data, err := owner.Document(ctx, d)
	return data, owner, err
}

func (s *listed) Layer(ctx context.Context, d oci.Descriptor, diffID string) (push.Layer, error) {
	owner := s.owners[d.Digest]
	if owner == nil {
		return push.Layer{}, errs.New(errs.NotFound, "nothing has the layer "+d.Digest)
	}
	return owner.Layer(ctx, d, diffID)
}
