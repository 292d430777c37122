package container

import (
	"context"
	"slices"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/storage"
)

// imageIndex tells ps what the images of containers are called now. The image
// store is read when it is first asked, and once. Nil, or if the store cannot be
// read, the containers' own records are all that is known.
type imageIndex struct {
	open    func() (*storage.Reader, error)
	reader  *storage.Reader
	list    []*storage.Image
	err     error
	byRef   map[string]*storage.Image // nil: no image is called so
	history map[string][]oci.History  // by id
}

// find returns the image that a reference means now, or nil; not ok: nobody knows.
func (x *imageIndex) find(ctx context.Context, ref string) (img *storage.Image, ok bool) {
	if x == nil {
		return nil, false
	}
	if x.byRef == nil {
		x.byRef, x.history = map[string]*storage.Image{}, map[string][]oci.History{}
		if x.reader, x.err = x.open(); x.err == nil {
			x.list, x.err = x.reader.Images(ctx)
		}
	}
	if x.err != nil {
		return nil, false
	}
	if img, ok := x.byRef[ref]; ok {
		return img, true
	}
	refs, _, err := engine.ImageRefs(ref)
	if err == nil {
		img, err = x.reader.Among(x.list, refs...)
	}
	if err != nil && errs.KindOf(err) != errs.NotFound && errs.KindOf(err) != errs.Invalid {
		return nil, false
	}
	x.byRef[ref] = img
	return img, true
}

// name is what ps calls the container's image: as it was given, but by its id if
// that means another image by now, or none.
func (x *imageIndex) name(ctx context.Context, rec *container.Record, full bool) string {
	if rec.ImageID != "" {
		if img, ok := x.find(ctx, rec.ImageRef); ok && (img == nil || img.ID != rec.ImageID) {
			if full {
				return "sha256:" + rec.ImageID
			}
			return container.ShortID(rec.ImageID)
		}
	}
	return imageName(rec)
}

// ancestor reports whether the container's image is the one that ref means, or was
// built on it.
func (x *imageIndex) ancestor(ctx context.Context, rec *container.Record, ref string) bool {
	img, ok := x.find(ctx, ref)
	switch {
	case !ok:
		return isImage(rec, ref)
	case img == nil:
		return false
	case img.ID == rec.ImageID:
		return true
	}
	below, own := x.steps(ctx, img.ID), x.steps(ctx, rec.ImageID)
	return len(below) > 0 && len(own) > len(below) && slices.Equal(own[:len(below)], below)
}

// steps are what an image was made by; none if it is gone.
func (x *imageIndex) steps(ctx context.Context, id string) []oci.History {
	if have, ok := x.history[id]; ok {
		return have
	}
	i := slices.IndexFunc(x.list, func(img *storage.Image) bool { return img.ID == id })
	if i < 0 {
		return nil
	}
	raw, err := x.reader.Config(ctx, x.list[i])
	if err != nil {
		return nil
	}
	doc, err := oci.ParseImage(raw)
	if err != nil {
		return nil
	}
	x.history[id] = doc.History
	return doc.History
}
