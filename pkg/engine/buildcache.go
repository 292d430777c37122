package engine

import (
	"context"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/pull"
	"cais.dev/cais/pkg/storage"
)

// FetchImage sees to it that the store has the layers of a build's image.
func (b *Builder) FetchImage(ctx context.Context, img *graph.Image, p oci.Platform, step *progress.Step) error {
	_, err := b.store.Fetch(ctx, img, p, step)
	return err
}

// HasLayer reports whether the store has the layer diffID on parent.
func (b *Builder) HasLayer(parent, diffID string) bool {
	return b.store.LayerDir(storage.LayerID(parent, diffID)) != ""
}

// PutLayer makes body, whose digest is diffID, a layer of the store on parent, unless it is there, and returns
// its id. body is opened only if it is needed.
func (b *Builder) PutLayer(ctx context.Context, parent, diffID string, body func() (pull.Layer, func() error, error)) (id string, err error) {
	return b.store.putLayer(ctx, parent, diffID, body)
}

func (s *buildStore) putLayer(ctx context.Context, parent, diffID string, body func() (pull.Layer, func() error, error)) (id string, err error) {
	id = storage.LayerID(parent, diffID)
	if s.LayerDir(id) != "" {
		return id, nil
	}
	if _, err := s.pull.open(ctx); err != nil {
		return "", err
	}
	l, end, err := body()
	if err != nil {
		return "", err
	}
	st, err := s.pull.Stage(ctx, l)
	if endErr := end(); err == nil {
		err = endErr
	}
	if err != nil {
		return "", err
	}
	return s.pull.Commit(ctx, parent, []pull.Staged{st})
}
