package storage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	library "go.podman.io/storage"
	"go.podman.io/storage/drivers"
	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/changes"
)

// NewLayer is a directory that becomes a layer.
type NewLayer struct {
	// Dir has the files as an overlay's upper directory has them. It is moved into
	// the store, so it must be on its file system ([Store.WorkDir] is) and nobody
	// may change it any more; those who have it mounted as a lower one may keep it.
	Dir string
	// Sum is what [changes.Tar] said of Dir above the parent.
	Sum changes.Summary
	// TarSplit is what it wrote; nil: a push packs the layer anew.
	TarSplit *os.File
	// Keep leaves Dir where it is: the layer is unpacked from its tar again. Sum is of
	// Dir alone then, whatever the parent has of it.
	Keep bool
}

// builtFlag is on layers that a build or a commit made; its value is the time.
const builtFlag = "cais-build"

// WorkDir is a directory on the file system of the store's layers, for what is to
// become one.
func (s *Store) WorkDir() string { return workDir(s.o) }

// WorkDir is [Store.WorkDir] for who only reads.
func (r *Reader) WorkDir() string { return workDir(r.o) }

func workDir(o Options) string {
	root := o.GraphRoot
	if o.ImageStore != "" {
		root = o.ImageStore
	}
	return filepath.Join(root, "cais")
}

// Sync flushes the store's file system. Whoever records an image does it before,
// so that what is recorded is on disk.
func (s *Store) Sync() error {
	if s.o.NoSync {
		return nil
	}
	return s.explain("flush the layers to disk", s.sync())
}

// AdoptLayer records a directory as the layer above parent (empty: none) and
// returns the layer's id. If the store has this very layer already, Dir stays
// where it is, and is the caller's to remove. It does not flush; see [Store.Sync].
//
// It fails with [ErrParentGone] if the parent was removed.
func (s *Store) AdoptLayer(ctx context.Context, parent string, l NewLayer) (string, error) {
	if !l.Keep {
		id, err := s.apply(ctx, parent, l.TarSplit, &graphdriver.DriverWithDifferOutput{
			Target: l.Dir, Size: l.Sum.Size, UIDs: l.Sum.UIDs, GIDs: l.Sum.GIDs,
			UncompressedDigest: digest.Digest(l.Sum.DiffID), RootDirMode: l.Sum.RootMode,
		}, library.LayerOptions{Flags: map[string]any{builtFlag: time.Now().Unix()}})
		if !errors.Is(err, unix.EXDEV) { // the store's layers are a mount of their own
			return id, err
		}
	}
	id := LayerID(parent, l.Sum.DiffID)
	if parent != "" && !s.HasLayer(parent) {
		return "", ErrParentGone
	}
	if s.HasLayer(id) {
		return id, nil
	}
	dir := Dir{Path: l.Dir}
	if l.Keep {
		dir.Lower = []string{}
	}
	st, err := s.StageDir(ctx, parent, dir)
	if err != nil {
		return "", err
	}
	if st.DiffID != l.Sum.DiffID {
		return "", errors.Join(errs.E("record layer "+short(id), errs.Internal, fmt.Errorf("its tar has the digest %s, and had %s", st.DiffID, l.Sum.DiffID)), s.Discard(st))
	}
	return s.commit(ctx, parent, st)
}

// Dir is an upper directory of overlay's. It may be a running container's.
type Dir struct {
	Path string
	// Lower are the directories that it was mounted above, if they are not those of
	// the layers (nil), but copies for other owners, or none.
	Lower []string
	Owner func(uid, gid uint32) (uint32, uint32) // whose a file is in the layer; nil: whose it is
}

// StageDir stages what a directory changes in the layer parent and all below it: a
// copy, the directory stays as it is.
func (s *Store) StageDir(ctx context.Context, parent string, dir Dir) (*Staged, error) {
	lower := dir.Lower
	if lower == nil {
		var err error
		if lower, err = s.reader.LayerDirs(ctx, parent); err != nil {
			return nil, err
		}
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	packed := make(chan error, 1)
	go func() {
		_, err := changes.Tar(ctx, w, dir.Path, lower, changes.TarOptions{Owner: dir.Owner})
		packed <- w.CloseWithError(err)
	}()
	st, err := s.StageLayer(ctx, LayerSource{Body: r, Unlimited: true})
	_ = r.CloseWithError(err) // nil is io.ErrClosedPipe: the tar is over by then
	<-packed                  // always nil; its own error came through the pipe
	return st, err
}

// LayerDirs returns the directories of the layer id and all below it, top first,
// absolute; none for the empty id.
func (r *Reader) LayerDirs(ctx context.Context, id string) ([]string, error) {
	if id == "" {
		return nil, nil
	}
	img := r.noImage()
	img.ID, img.TopLayer = id, id
	dirs, err := r.LowerDirs(ctx, img)
	if err != nil {
		return nil, fmt.Errorf("find layer %s: %w", short(id), err)
	}
	return dirs, nil
}

// HoldLayer keeps the layer id, and all below it, when the images that have it
// are removed, by whatever tool of this store: it records an empty layer above
// it. ReleaseLayers takes that back.
func (s *Store) HoldLayer(ctx context.Context, id string) error {
	if s.HasLayer(holderOf(id)) {
		return nil
	}
	_, err := s.lib.CreateLayer(holderOf(id), id, nil, "", false, &library.LayerOptions{Flags: map[string]any{builtFlag: time.Now().Unix()}})
	switch {
	case errors.Is(err, library.ErrLayerUnknown):
		return ErrParentGone
	case errors.Is(err, library.ErrDuplicateID): // somebody else was as quick
		return nil
	}
	return s.explain("hold layer "+short(id), err)
}

// holderPrefix begins the ids of the layers that hold others.
const holderPrefix = "cais-build-cache-"

func holderOf(id string) string { return holderPrefix + id }

// Held returns the layers that HoldLayer keeps.
func (s *Store) Held() ([]string, error) {
	layers, err := s.lib.Layers()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, l := range layers {
		if id, ok := strings.CutPrefix(l.ID, holderPrefix); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// ReleaseLayers takes back HoldLayer and removes of the layers and those below them
// what nothing else uses. It returns the ids of the layers that went.
func (s *Store) ReleaseLayers(ids ...string) ([]string, error) {
	s.spendReserve()
	for _, id := range ids {
		if err := s.deleteLayer(holderOf(id)); err != nil {
			return nil, s.explain("release layer "+short(id), err)
		}
	}
	var gone []string
	for _, top := range ids {
		for _, l := range s.layersOf(top) {
			if err := s.deleteLayer(l.ID); err != nil {
				return gone, s.explain("remove layer "+short(l.ID), err)
			}
			if s.HasLayer(l.ID) {
				break // something uses it, and so all below
			}
			gone = append(gone, l.ID)
		}
	}
	return gone, nil
}

// LayerDir returns the directory of the layer id alone; empty if it is not there.
func (r *Reader) LayerDir(id string) string {
	home, err := r.layerDir(r.noImage(), id)
	if err != nil {
		return ""
	}
	return filepath.Join(home, "diff")
}

// LayerSizes returns the bytes of the tars of the layer id and of all below it,
// bottom first; -1 where that is not known.
func (r *Reader) LayerSizes(ctx context.Context, id string) ([]int64, error) {
	if id == "" {
		return nil, nil
	}
	layers, err := r.Layers(ctx, &Image{ID: id, TopLayer: id})
	sizes := make([]int64, len(layers))
	for i, l := range layers {
		sizes[len(layers)-1-i] = l.Size
	}
	return sizes, err
}

// HeldLayers returns the layers that HoldLayer keeps and no image has.
func (r *Reader) HeldLayers(ctx context.Context) ([]Layer, error) {
	all, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	seen, err := r.ImageLayers(ctx)
	if err != nil {
		return nil, err
	}
	var held []Layer
	for id, holder := range all {
		if !strings.HasPrefix(id, holderPrefix) {
			continue
		}
		for l, ok := all[holder.Parent]; ok && !seen[l.ID]; l, ok = all[l.Parent] {
			seen[l.ID] = true
			held = append(held, l)
		}
	}
	return held, nil
}

// ImageLayers returns the ids of the layers that images have.
func (r *Reader) ImageLayers(ctx context.Context) (map[string]bool, error) {
	imgs, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	all, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	used := map[string]bool{}
	for _, img := range imgs {
		for _, top := range append([]string{img.TopLayer}, img.Mapped...) {
			for id := top; id != "" && !used[id]; id = all[id].Parent {
				used[id] = true
			}
		}
	}
	return used, nil
}
