package storage

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"cais.dev/cais/pkg/errs"
)

// Reader finds images without the library. Its methods may be called at once
// from several goroutines. A store that does not exist is an empty one.
type Reader struct {
	o Options

	mu     sync.Mutex
	driver string
	locks  map[string]*lockFile
}

// NewReader returns a reader; it opens nothing yet.
func NewReader(o Options) *Reader { return &Reader{o: o, locks: map[string]*lockFile{}} }

// Close closes the lock files. Not while a [Store] of the same graph root is
// open in this process: that would drop its locks.
func (r *Reader) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var failed []error
	for _, l := range r.locks {
		failed = append(failed, l.close())
	}
	return errors.Join(failed...)
}

// Driver returns the name of the store's driver: what the options say, else
// what the store holds, else overlay.
func (r *Reader) Driver() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.driver == "" {
		r.driver = driverOf(r.o)
	}
	return r.driver
}

func driverOf(o Options) string {
	if o.Driver != "" {
		if o.Driver == "overlay2" { // Docker's name for the same
			return "overlay"
		}
		return o.Driver
	}
	for _, d := range []string{"overlay", "vfs", "btrfs", "zfs"} {
		if _, err := os.Stat(filepath.Join(o.GraphRoot, d+"-images")); err == nil {
			return d
		}
	}
	return "overlay"
}

// roots returns the directories that hold images, ours first.
func (r *Reader) roots() []string {
	own := []string{r.o.GraphRoot}
	if r.o.ImageStore != "" {
		own = []string{r.o.ImageStore, r.o.GraphRoot}
	}
	return append(own, r.o.ImageStores...)
}

func (r *Reader) dir(root, kind string) string { return filepath.Join(root, r.Driver()+"-"+kind) }

func (r *Reader) lockOf(path string) *lockFile {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.locks[path]
	if l == nil {
		l = &lockFile{path: path, fd: -1}
		r.locks[path] = l
	}
	return l
}

func (r *Reader) slow(path string) func(string) {
	return func(holder string) {
		if r.o.Log != nil {
			r.o.Log.Warn("waiting for the image store", slog.String("lock", path), slog.String("held by", holder))
		}
	}
}

// locked calls f with the lock on dir/name held.
func (r *Reader) locked(ctx context.Context, path string, exclusive bool, f func(l *lockFile) error) error {
	l := r.lockOf(path)
	unlock, held, err := l.lock(ctx, exclusive, r.slow(path))
	if err != nil {
		return err
	}
	if held {
		defer unlock()
	}
	return f(l)
}

// read returns a file below the lock file beside it; no file is nil, nil.
func (r *Reader) read(ctx context.Context, dir, lock string, names ...string) (docs [][]byte, err error) {
	docs = make([][]byte, len(names))
	err = r.locked(ctx, filepath.Join(dir, lock), false, func(*lockFile) error {
		for i, name := range names {
			if docs[i], err = readFile(filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
	return docs, err
}

func readFile(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// Images returns all images, those of additional stores last.
func (r *Reader) Images(ctx context.Context) ([]*Image, error) {
	var all []*Image
	seen := map[string]bool{}
	for i, root := range r.roots() {
		dir := r.dir(root, "images")
		docs, err := r.read(ctx, dir, "images.lock", "images.json")
		if err != nil {
			return nil, fmt.Errorf("read the images: %w", err)
		}
		imgs, err := parseImages(docs[0])
		if err != nil {
			return nil, errs.WithHint(fmt.Errorf("%s: %w", filepath.Join(dir, "images.json"), err), "The image store is damaged; 'podman system check' may repair it.")
		}
		for _, img := range imgs {
			if seen[img.ID] {
				continue // the first store's record counts, as for the library
			}
			seen[img.ID] = true
			img.dir = filepath.Join(dir, img.ID)
			img.ReadOnly = i > 0 && root != r.o.GraphRoot
			all = append(all, img)
		}
	}
	return all, nil
}

func parseImages(doc []byte) ([]*Image, error) {
	if len(doc) == 0 {
		return nil, nil
	}
	var imgs []*Image
	s := &scanner{b: doc}
	s.array(func() {
		img := &Image{}
		manifests := map[string]string{}
		s.object(func(key string) {
			switch key {
			case "id":
				img.ID = s.str()
			case "names":
				img.Names = s.strings()
			case "names-history":
				img.History = s.strings()
			case "digest":
				img.Digest = s.str()
			case "layer":
				img.TopLayer = s.str()
			case "mapped-layers":
				img.Mapped = s.strings()
			case "created":
				img.Created, _ = time.Parse(time.RFC3339Nano, s.str()) // unknown is zero
			case "big-data-sizes":
				img.BigData = map[string]int64{}
				s.object(func(name string) { img.BigData[name] = s.integer() })
			case "big-data-digests":
				s.object(func(name string) {
					if strings.HasPrefix(name, "manifest") {
						manifests[name] = s.str()
					} else {
						s.skip()
					}
				})
			default:
				s.skip()
			}
		})
		img.Digests = digests(img.Digest, manifests)
		if img.Digest == "" && len(img.Digests) > 0 {
			img.Digest = img.Digests[0]
		}
		if validID(img.ID) { // it becomes a path
			imgs = append(imgs, img)
		}
	})
	return imgs, s.fail
}

// digests lists own first, then the other manifests' digests, each once.
func digests(own string, manifests map[string]string) []string {
	var all []string
	if own != "" {
		all = append(all, own)
	}
	names := make([]string, 0, len(manifests))
	for name := range manifests {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if d := manifests[name]; !slices.Contains(all, d) {
			all = append(all, d)
		}
	}
	return all
}

func validID(id string) bool {
	return id != "" && !strings.ContainsAny(id, "/\x00") && id != "." && id != ".."
}

// Image returns the first image that one of refs means: a full reference in
// normal form (docker.io/library/debian:latest), a name with digest, an id as
// sha256:…, or hex digits that begin exactly one id. A caller passes what the
// user typed in normal form first, then as typed: a name wins over an id.
func (r *Reader) Image(ctx context.Context, refs ...string) (*Image, error) {
	imgs, err := r.Images(ctx)
	if err != nil {
		return nil, err
	}
	return find(imgs, refs)
}

func find(imgs []*Image, refs []string) (*Image, error) {
	for _, ref := range refs {
		img, err := match(imgs, ref)
		if img != nil || err != nil {
			return img, err
		}
	}
	name := ""
	if len(refs) > 0 {
		name = familiar(refs[0])
	}
	return nil, errs.New(errs.NotFound, "no such image: "+name)
}

// familiar is how Docker shows a name.
func familiar(name string) string {
	return strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/")
}

func match(imgs []*Image, ref string) (*Image, error) {
	for _, img := range imgs {
		if slices.Contains(img.Names, ref) {
			return img, nil
		}
	}
	if name, digest, ok := strings.Cut(ref, "@"); ok {
		return matchDigest(imgs, repository(name), digest), nil
	}
	prefix, full := strings.CutPrefix(ref, "sha256:")
	if prefix == "" || len(prefix) > 64 || !isHex(prefix) {
		return nil, nil
	}
	var found *Image
	for _, img := range imgs {
		if img.ID == prefix {
			return img, nil
		}
		if !strings.HasPrefix(img.ID, prefix) {
			continue
		}
		if found != nil {
			return nil, errs.WithHint(errs.New(errs.Invalid, "multiple IDs found with provided prefix: "+ref), "Give more digits of the id.")
		}
		found = img
	}
	if found == nil && full { // Docker takes a manifest's digest for an id, too
		for _, img := range imgs {
			if slices.Contains(img.Digests, ref) {
				return img, nil
			}
		}
	}
	return found, nil
}

// matchDigest finds the image with a manifest of this digest that came from the
// repository. Images that lost their names count by those they had.
func matchDigest(imgs []*Image, repo, digest string) *Image {
	for _, img := range imgs {
		if !slices.Contains(img.Digests, digest) {
			continue
		}
		for _, name := range slices.Concat(img.Names, img.History) {
			if repository(name) == repo {
				return img
			}
		}
	}
	return nil
}

// repository is a reference without its tag and digest.
func repository(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// Config returns the image's config document.
func (r *Reader) Config(ctx context.Context, img *Image) ([]byte, error) {
	return r.Document(ctx, img, "sha256:"+img.ID)
}

// Manifest returns the platform's manifest.
func (r *Reader) Manifest(ctx context.Context, img *Image) ([]byte, error) {
	return r.Document(ctx, img, "manifest")
}

// maxDocument bounds what is read of one document: a config may have 16 MB.
const maxDocument = 16 << 20

// Document returns what is kept with the image under key, such as
// "manifest-sha256:…"; NotFound if nothing is.
func (r *Reader) Document(_ context.Context, img *Image, key string) ([]byte, error) {
	path := filepath.Join(img.dir, bigDataName(key))
	fi, err := os.Stat(path)
	if err == nil && fi.Size() > maxDocument {
		err = fmt.Errorf("%d bytes are more than %d", fi.Size(), maxDocument)
	}
	var doc []byte
	if err == nil {
		doc, err = os.ReadFile(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errs.E("image "+short(img.ID), errs.NotFound, fmt.Errorf("no document %q", key))
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of image %s: %w", key, short(img.ID), err)
	}
	return doc, nil
}

func short(id string) string { return id[:min(len(id), 12)] }

// bigDataName is the library's file name for a key: the key itself if it is
// made of digits, small letters and dots.
func bigDataName(key string) string {
	for i := range len(key) {
		if c := key[i]; c != '.' && (c < '0' || c > '9') && (c < 'a' || c > 'z') {
			return "=" + base64.StdEncoding.EncodeToString([]byte(key))
		}
	}
	return key
}

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
		l := Layer{Size: -1}
		s.object(func(key string) {
			switch key {
			case "id":
				l.ID = s.str()
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

// Sizes returns the bytes of the uncompressed layers of each image, as
// `images` shows them, by image id.
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
			sum += max(all[id].Size, 0)
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
	return dirs, nil
}

// ShortLowerDirs is LowerDirs by the short links of the store
// (<graphroot>/overlay/l/<26 characters>), for kernels before 6.7, which want
// all directories in one page of mount options. A layer without such a link
// keeps its long path.
func (r *Reader) ShortLowerDirs(ctx context.Context, img *Image) ([]string, error) {
	dirs, err := r.LowerDirs(ctx, img)
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
	return dirs, err
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
			return errs.WithHint(err, "Another tool marked it so in "+marker+". 'podman system reset' and a storage.conf without mount_program make it native again.")
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
