package storage

import (
	"context"

	"cais.dev/cais/pkg/errs"
)

// Reader finds images without the library. Its methods may be called at once
// from several goroutines. A store that does not exist is an empty one.
type Reader struct{ o Options }

// NewReader returns a reader; it opens nothing yet.
func NewReader(o Options) *Reader { return &Reader{o: o} }

var errReader = errs.New(errs.Unsupported, "reading the image store is being written")

// Image returns the first image that one of refs means: a full reference in
// normal form (docker.io/library/debian:latest), a name with digest, an id as
// sha256:…, or hex digits that begin exactly one id. A caller passes what the
// user typed in normal form first, then as typed: a name wins over an id.
func (r *Reader) Image(ctx context.Context, refs ...string) (*Image, error) { return nil, errReader }

// Images returns all images, those of additional stores last.
func (r *Reader) Images(ctx context.Context) ([]*Image, error) { return nil, errReader }

// Config returns the image's config document.
func (r *Reader) Config(ctx context.Context, img *Image) ([]byte, error) { return nil, errReader }

// Manifest returns the platform's manifest.
func (r *Reader) Manifest(ctx context.Context, img *Image) ([]byte, error) { return nil, errReader }

// Document returns what is kept with the image under key, such as
// "manifest-sha256:…"; NotFound if nothing is.
func (r *Reader) Document(ctx context.Context, img *Image, key string) ([]byte, error) {
	return nil, errReader
}

// Layers returns the image's layers, top first.
func (r *Reader) Layers(ctx context.Context, img *Image) ([]Layer, error) { return nil, errReader }

// Sizes returns the bytes of the uncompressed layers of each image, as
// `images` shows them, by image id.
func (r *Reader) Sizes(ctx context.Context, imgs ...*Image) (map[string]int64, error) {
	return nil, errReader
}

// LowerDirs returns the image's directories for overlay, top first, absolute.
// It fails with Unsupported if the store is not one that native overlay mounts.
func (r *Reader) LowerDirs(ctx context.Context, img *Image) ([]string, error) { return nil, errReader }

// AddContainer records that a container uses an image, so that no tool of this
// store removes it. It fails with NotFound if the image is gone, with Conflict
// if another container has the id or the name.
func (r *Reader) AddContainer(ctx context.Context, c ContainerRef) error { return errReader }

// RemoveContainer takes the record away. No record is no error.
func (r *Reader) RemoveContainer(ctx context.Context, id string) error { return errReader }

// Containers returns all container records, Podman's and Buildah's too.
func (r *Reader) Containers(ctx context.Context) ([]ContainerRef, error) { return nil, errReader }

// Driver returns the name of the store's driver: overlay unless the store or
// the options say otherwise.
func (r *Reader) Driver() string { return "overlay" }

// Close closes the lock files. Not while a [Store] of the same graph root is
// open in this process: that would drop its locks.
func (r *Reader) Close() error { return nil }
