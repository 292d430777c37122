package storage

import (
	"bytes"
	"context"
	"encoding/base64"
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
// what the store holds, else overlay. A user's vfs is passed over: it is what
// Podman 4.3 takes for a user without storage.conf, and nothing can be mounted
// from it; overlay goes beside it (see [Reader.Beside]).
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
		if d == "vfs" && o.Rootless {
			continue
		}
		if _, err := os.Stat(filepath.Join(o.GraphRoot, d+"-images")); err == nil {
			return d
		}
	}
	return "overlay"
}

// Beside returns the driver with which another program keeps images of its own in
// the same directory, where they are not ours nor ours its, or nothing. One that
// the options rule out counts only while it holds images.
func (r *Reader) Beside() string {
	if r.Driver() != "overlay" {
		return ""
	}
	const other = "vfs"
	list, err := os.ReadFile(filepath.Join(r.o.GraphRoot, other+"-images", "images.json"))
	switch {
	case err == nil && len(bytes.TrimSpace(list)) > len("[]"):
		return other
	case r.o.Driver != "":
		return ""
	}
	if _, err := os.Stat(filepath.Join(r.o.GraphRoot, other+"-images")); err != nil {
		return ""
	}
	return other
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
	return r.Among(imgs, refs...)
}

// Among is Image where the images were read before.
func (r *Reader) Among(imgs []*Image, refs ...string) (*Image, error) {
	refs, err := r.withShort(refs)
	if err != nil {
		return nil, err
	}
	return find(imgs, refs)
}

// Short returns the full names that what the user typed stands for besides Docker
// Hub's.
func (r *Reader) Short(typed string) ([]string, error) {
	if r.o.ShortNames == nil {
		return nil, nil
	}
	return r.o.ShortNames(typed)
}

// withShort puts the names for the last of refs, which is as typed, before all.
func (r *Reader) withShort(refs []string) ([]string, error) {
	if len(refs) == 0 {
		return refs, nil
	}
	more, err := r.Short(refs[len(refs)-1])
	return append(more, refs...), err
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
