package engine

import (
	"context"
	"fmt"
	"strings"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
)

// openLayout opens an image as --build-context names it: DIR[:TAG][@DIGEST].
func (s *buildStore) openLayout(name string, p oci.Platform) (*pull.Opened, error) {
	dir, digest, _ := strings.Cut(name, "@")
	tag := ""
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, tag = dir[:i], dir[i+1:]
	}
	if err := s.allow("oci", dir); err != nil {
		return nil, err
	}
	o, err := pull.OpenLayoutImage(dir, tag, digest, &p)
	if err != nil {
		return nil, fmt.Errorf("oci-layout://%s: %w", name, err)
	}
	return o, nil
}

// layout finds an image of an OCI layout for a build.
func (s *buildStore) layout(_ context.Context, name string, p oci.Platform) (base dockerfile.Base, err error) {
	o, err := s.openLayout(name, p)
	if err != nil {
		return base, err
	}
	defer o.Close()
	conf, err := oci.ParseImage(o.Images[0].Config)
	if err != nil {
		return base, err
	}
	return dockerfile.Base{Digest: oci.Digest(o.Images[0].Manifest), Config: *conf}, nil
}

// fetchLayout makes the layers of such an image the store's. No image is recorded:
// it has no name here.
func (s *buildStore) fetchLayout(ctx context.Context, img *graph.Image, p oci.Platform, step *progress.Step) (top string, err error) {
	o, err := s.openLayout(img.Layout, p)
	if err != nil {
		return "", err
	}
	defer o.Close()
	for _, l := range o.Images[0].Layers {
		top, err = s.putLayer(ctx, top, l.DiffID, func() (pull.Layer, func() error, error) {
			body, err := l.Open()
			if err != nil {
				return pull.Layer{}, nil, err
			}
			return pull.Layer{DiffID: l.DiffID, BlobDigest: l.Blob, Size: l.Size, Body: body, Unpacked: func(n int64) {
				step.Item(l.Blob, n, 0)
			}}, body.Close, nil
		})
		if err != nil {
			return "", err
		}
	}
	return top, nil
}
