package storage

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
)

// layers reads the records of all layers, by id.
func (r *Reader) layers(ctx context.Context) (map[string]Layer, error) {
	all := map[string]Layer{}
	for _, root := range slices.Backward(r.roots()) { // ours last: it counts
		dir := r.dir(root, "layers")
		docs, err := r.read(ctx, dir, "layers.lock", "layers.json", "volatile-layers.json")
		if err != nil {
			return nil, fmt.Errorf("read the layers: %w", err)
		}
		for _, doc := range docs {
			layers, err := parseLayers(doc)
			if err != nil {
				return nil, fmt.Errorf("%s/layers.json: %w", dir, err)
			}
			for _, l := range layers {
				all[l.ID] = l
			}
		}
	}
	return all, nil
}

func parseLayers(doc []byte) ([]Layer, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	var layers []Layer
	s := &scanner{b: doc}
	s.array(func() {
		l := Layer{Size: -1, Content: -1}
		s.object(func(key string) {
			switch key {
			case "id":
				l.ID = s.str()
				l.files = cmp.Or(l.files, l.ID)
			case "parent":
				l.Parent = s.str()
			case "diff-digest":
				l.DiffID = s.str()
			case "compressed-diff-digest":
				l.BlobDigest = s.str()
			case "diff-size":
				l.Size = s.integer()
			case "created":
				l.Created, _ = time.Parse(time.RFC3339Nano, s.str()) // unknown is zero
			case "flags":
				s.object(func(flag string) {
					switch flag {
					case "incomplete":
						l.incomplete = string(s.raw()) == "true"
					case pulledFlag:
						l.ours = true
						s.skip()
					case sizeFlag:
						l.Content = s.integer()
					case twinFlag:
						l.files = s.str()
					default:
						s.skip()
					}
				})
			default:
				s.skip()
			}
		})
		if l.DiffID != "" && l.Size < 0 {
			l.Size = 0 // the record leaves a zero out
		}
		if validID(l.ID) {
			layers = append(layers, l)
		}
	})
	return layers, s.fail
}

// maxLayers is what overlay mounts at once (OVL_MAX_STACK).
const maxLayers = 500

// Layers returns the image's layers, top first.
func (r *Reader) Layers(ctx context.Context, img *Image) ([]Layer, error) {
	all, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	return chain(all, img)
}

// HasLayers reports whether the layer id and all below it are there: recorded to the
// end, with their files.
func (r *Reader) HasLayers(ctx context.Context, id string) bool {
	img := r.noImage()
	img.TopLayer = id
	layers, err := r.Layers(ctx, img)
	return err == nil && !slices.ContainsFunc(layers, func(l Layer) bool {
		_, err := r.layerDir(img, l.ID)
		return l.incomplete || err != nil
	})
}

func chain(all map[string]Layer, img *Image) ([]Layer, error) {
	var layers []Layer
	for id := img.TopLayer; id != ""; {
		l, ok := all[id]
		if !ok {
			return nil, missingLayer(img, id)
		}
		layers = append(layers, l)
		if len(layers) > maxLayers {
			return nil, errs.E("image "+short(img.ID), errs.Unsupported, fmt.Errorf("more than %d layers", maxLayers))
		}
		id = l.Parent
	}
	return layers, nil
}

func missingLayer(img *Image, id string) error {
	err := errs.E("image "+short(img.ID), errs.NotFound, fmt.Errorf("its layer %s is not in the store", short(id)))
	return errs.WithHint(err, "Remove the image and pull it again.")
}

// Sizes returns the bytes of the layers of each image, as `images` shows them,
// by image id.
func (r *Reader) Sizes(ctx context.Context, imgs ...*Image) (map[string]int64, error) {
	all, err := r.layers(ctx)
	if err != nil {
		return nil, err
	}
	sizes := make(map[string]int64, len(imgs))
	for _, img := range imgs {
		var sum int64
		seen := 0
		for id := img.TopLayer; id != "" && seen <= maxLayers; id = all[id].Parent {
			if l, ok := all[id]; ok {
				sum += l.Bytes()
			}
			seen++
		}
		sizes[img.ID] = sum
	}
	return sizes, nil
}

// LowerDirs returns the image's directories for overlay, top first, absolute.
// It fails with Unsupported if the store is not one that native overlay mounts.
func (r *Reader) LowerDirs(ctx context.Context, img *Image) ([]string, error) {
	if err := r.mountable(); err != nil {
		return nil, err
	}
	if img.TopLayer == "" {
		return nil, nil
	}
	ids, err := r.chainIDs(ctx, img)
	if err != nil {
		return nil, err
	}
	dirs := make([]string, 0, len(ids))
	for _, id := range ids {
		home, err := r.layerDir(img, id)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, filepath.Join(home, "diff"))
	}
	if len(dirs) > manyLayers {
		shorten(dirs)
	}
	return dirs, nil
}

// manyLayers is a number of long paths that surely fit into a page.
const manyLayers = 30

// shorten replaces directories by the store's short links to them
// (<graphroot>/overlay/l/<26 characters>): kernels before 6.7 want all in one
// page of mount options. A layer without such a link keeps its long path.
func shorten(dirs []string) {
	for i, dir := range dirs {
		layer := filepath.Dir(dir)
		link, err := os.ReadFile(filepath.Join(layer, "link"))
		if err != nil || !validID(string(link)) {
			continue
		}
		l := filepath.Join(filepath.Dir(layer), "l", string(link))
		if to, err := os.Readlink(l); err == nil && to == filepath.Join("..", filepath.Base(layer), "diff") {
			dirs[i] = l
		}
	}
}

// mountable tells whether native overlay can mount the store's layers.
func (r *Reader) mountable() error {
	op := "use the image store " + r.o.GraphRoot
	if d := r.Driver(); d != "overlay" {
		err := errs.E(op, errs.Unsupported, fmt.Errorf("its driver is %q, and cais mounts overlay only", d))
		return errs.WithHint(err, "Set driver = \"overlay\" in storage.conf, or another graph root in CAIS_ROOT; images are pulled again.")
	}
	for _, opt := range r.o.DriverOptions {
		if key, value, _ := strings.Cut(opt, "="); strings.HasSuffix(key, "mount_program") && value != "" {
			err := errs.E(op, errs.Unsupported, fmt.Errorf("storage.conf has it mounted by %s, and cais mounts overlay natively", value))
			return errs.WithHint(err, "Remove mount_program from storage.conf (kernels since 5.11 need none), or set CAIS_ROOT.")
		}
	}
	for _, root := range r.roots() {
		marker := filepath.Join(root, "overlay", ".has-mount-program")
		flag, err := os.ReadFile(marker)
		if err == nil && strings.TrimSpace(string(flag)) == "true" {
			err := errs.E(op, errs.Unsupported, errors.New("its layers were unpacked for fuse-overlayfs"))
			return errs.WithHint(err, "Another tool marked it so in "+marker+". 'podman system reset', which removes all its images and containers, and a storage.conf without mount_program make it native again.")
		}
	}
	return nil
}

// chainIDs returns the ids of the image's layers, top first: from what the
// driver keeps beside the top layer (two small files, whatever the size of the
// store), else from the layers' records.
func (r *Reader) chainIDs(ctx context.Context, img *Image) ([]string, error) {
	if dir, err := r.layerDir(img, img.TopLayer); err == nil {
		if lower, err := os.ReadFile(filepath.Join(dir, "lower-layers")); err == nil {
			return capChain(img, append([]string{img.TopLayer}, splitIDs(string(lower))...))
		}
		if lower, err := os.ReadFile(filepath.Join(dir, "lower")); err == nil {
			if ids, ok := r.follow(img, string(lower)); ok {
				return capChain(img, append([]string{img.TopLayer}, ids...))
			}
		} else if errors.Is(err, fs.ErrNotExist) {
			if _, err := os.Stat(filepath.Join(dir, "link")); err == nil {
				return []string{img.TopLayer}, nil // a bottom layer has a link and no lower
			}
		}
	}
	layers, err := r.Layers(ctx, img)
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(layers))
	for i, l := range layers {
		ids[i] = l.ID
	}
	return ids, nil
}

func splitIDs(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ":")
}

func capChain(img *Image, ids []string) ([]string, error) {
	if len(ids) > maxLayers {
		return nil, errs.E("image "+short(img.ID), errs.Unsupported, fmt.Errorf("%d layers are more than the %d that overlay mounts", len(ids), maxLayers))
	}
	return ids, nil
}

// follow resolves l/AAA:l/BBB through the links.
func (r *Reader) follow(img *Image, lower string) (ids []string, ok bool) {
	for _, link := range splitIDs(lower) {
		if name, short := strings.CutPrefix(link, "l/"); !short || !validID(name) {
			return nil, false
		}
		id := ""
		for _, root := range r.searchRoots(img) {
			to, err := os.Readlink(filepath.Join(root, "overlay", link))
			if err == nil && filepath.Base(to) == "diff" {
				id = filepath.Base(filepath.Dir(to))
				break
			}
		}
		if !validID(id) {
			return nil, false
		}
		ids = append(ids, id)
	}
	return ids, true
}

// noImage is for layers that are looked for on behalf of none: in our own store first.
func (r *Reader) noImage() *Image {
	return &Image{dir: filepath.Join(r.dir(r.roots()[0], "images"), "none")}
}

// searchRoots puts the store that the image is in first.
func (r *Reader) searchRoots(img *Image) []string {
	roots := r.roots()
	own := filepath.Dir(filepath.Dir(img.dir))
	slices.SortStableFunc(roots, func(a, b string) int {
		return cmp.Compare(btoi(a != own), btoi(b != own))
	})
	return roots
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// layerDir finds the driver's directory of a layer and checks that there is
// something to mount.
func (r *Reader) layerDir(img *Image, id string) (string, error) {
	if !validID(id) {
		return "", missingLayer(img, id)
	}
	for _, root := range r.searchRoots(img) {
		dir := filepath.Join(root, "overlay", id)
		if fi, err := os.Stat(filepath.Join(dir, "diff")); err != nil || !fi.IsDir() {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, "composefs-data", "composefs.blob")); err == nil {
			err := errs.E("image "+short(img.ID), errs.Unsupported, errors.New("a layer is in composefs form"))
			return "", errs.WithHint(err, "Another tool pulled it with use_composefs; remove the image and pull it again with cais.")
		}
		return dir, nil
	}
	return "", missingLayer(img, id)
}

// digestHex returns the hex part of a sha256 digest, or an error that shows it.
func digestHex(digest string) (string, error) {
	h, ok := strings.CutPrefix(digest, "sha256:")
	if raw, err := hex.DecodeString(h); !ok || err != nil || len(raw) != 32 || h != strings.ToLower(h) {
		return "", errs.New(errs.Invalid, fmt.Sprintf("%q is not a sha256 digest", digest))
	}
	return h, nil
}
