package storage

import (
	"context"
	"errors"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// Listed returns the ids of those of imgs that have no name and belong to a
// manifest list among imgs: a build for several platforms leaves one of each. They
// are the list's, and stay as long as it does.
func (r *Reader) Listed(ctx context.Context, imgs []*Image) (map[string]bool, error) {
	digests := map[string]bool{}
	for _, img := range imgs {
		if !img.IsList() {
			continue
		}
		index, err := r.Manifest(ctx, img)
		if errs.KindOf(err) == errs.NotFound { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		_, x, err := oci.ParseManifest(index, "")
		if err != nil || x == nil {
			continue // a damaged list keeps nothing
		}
		for _, d := range x.Manifests {
			digests[d.Digest] = true
		}
	}
	ids := map[string]bool{}
	if len(digests) == 0 {
		return ids, nil
	}
	for _, img := range imgs {
		if len(img.Names) > 0 || img.IsList() {
			continue
		}
		for _, d := range img.Digests {
			if digests[d] {
				ids[img.ID] = true
			}
		}
	}
	return ids, nil
}

// partsOf are the ids of the nameless images that belong to the list img and to no
// other; none if it is not a list.
func (s *Store) partsOf(ctx context.Context, img *Image) (ids []string, err error) {
	if !img.IsList() {
		return nil, nil
	}
	all, err := s.reader.Images(ctx)
	if err != nil {
		return nil, err
	}
	before, err := s.reader.Listed(ctx, all)
	if err != nil {
		return nil, err
	}
	var others []*Image
	for _, i := range all {
		if i.ID != img.ID {
			others = append(others, i)
		}
	}
	after, err := s.reader.Listed(ctx, others)
	for id := range before {
		if !after[id] {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// removeParts removes what a list that is gone has left. Containers keep theirs.
func (s *Store) removeParts(ctx context.Context, ids []string) (removed []Removed, err error) {
	for _, id := range ids {
		r, e := s.RemoveImage(ctx, RemoveOptions{Force: true}, "sha256:"+id)
		if k := errs.KindOf(e); k != errs.NotFound && k != errs.Conflict {
			err = errors.Join(err, e)
		}
		removed = append(removed, r...)
	}
	return removed, err
}
