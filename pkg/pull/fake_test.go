package pull

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// fakeStore is a store in memory. [testStore] says what it must have in common
// with the real one.
type fakeStore struct {
	mu     sync.Mutex
	layers map[string]bool // recorded, by id
	images map[string]*Local
	put    []Image
	staged map[*fakeStaged]bool
	locks  map[string]chan struct{}
	twins  map[string][]byte // recorded, by diffID

	stages  int     // calls of Stage
	commits [][]int // sizes of batches
	opened  int

	twinErr      error // of layers that are not there
	parts        func(context.Context, Layer, oci.Descriptor, Get) (*Staged, error)
	beforeCommit func(parent string) error
	locked       func(digest string)
}

type fakeStaged struct {
	diffID string
	data   []byte
}

func newFake() *fakeStore {
	return &fakeStore{layers: map[string]bool{}, images: map[string]*Local{}, staged: map[*fakeStaged]bool{}, locks: map[string]chan struct{}{}, twins: map[string][]byte{}}
}

func (f *fakeStore) Local(_ context.Context, name string) (*Local, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n, l := range f.images {
		if n == name || "sha256:"+l.ID == name {
			return l, nil
		}
	}
	return nil, nil
}

func (f *fakeStore) LayerID(parent, diffID string) string {
	hexID := strings.TrimPrefix(diffID, "sha256:")
	if parent == "" {
		return hexID
	}
	sum := sha256.Sum256([]byte(parent + "+" + hexID))
	return hex.EncodeToString(sum[:])
}

func (f *fakeStore) HasLayer(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.layers[id]
}

func (f *fakeStore) LockDigest(ctx context.Context, digest string, waiting func()) (func(), error) {
	if err := oci.ValidateDigest(digest); err != nil {
		return nil, err
	}
	f.mu.Lock()
	l := f.locks[digest]
	if l == nil {
		l = make(chan struct{}, 1)
		f.locks[digest] = l
	}
	f.mu.Unlock()
	select {
	case l <- struct{}{}:
	default:
		if waiting != nil {
			waiting()
		}
		select {
		case l <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if f.locked != nil {
		f.locked(digest)
	}
	return func() { <-l }, nil
}

func (f *fakeStore) Stage(ctx context.Context, l Layer) (Staged, error) {
	f.mu.Lock()
	f.stages++
	f.mu.Unlock()
	blob, err := io.ReadAll(l.Body)
	if err != nil {
		return Staged{}, err
	}
	if got := digest(blob); l.BlobDigest != "" && got != l.BlobDigest {
		return Staged{}, errs.E("", errs.Invalid, &oci.DigestError{What: "layer", Want: l.BlobDigest, Got: got, Bytes: int64(len(blob))})
	}
	data := blob
	if bytes.HasPrefix(blob, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			return Staged{}, err
		}
		if data, err = io.ReadAll(z); err != nil {
			return Staged{}, err
		}
	}
	if got := digest(data); got != l.DiffID {
		return Staged{}, errs.E("", errs.Invalid, &oci.DigestError{What: "uncompressed layer", Want: l.DiffID, Got: got, Bytes: int64(len(data))})
	}
	if err := context.Cause(ctx); err != nil {
		return Staged{}, err
	}
	s := &fakeStaged{diffID: l.DiffID, data: data}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.staged[s] = true
	return Staged{Handle: s, Blob: digest(blob), Size: int64(len(blob))}, nil
}

func (f *fakeStore) StageParts(ctx context.Context, l Layer, d oci.Descriptor, get Get) (*Staged, error) {
	if f.parts == nil {
		return nil, nil
	}
	return f.parts(ctx, l, d, get)
}

func (f *fakeStore) StageTwin(_ context.Context, diffID string) (*Staged, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.twins[diffID] == nil {
		return nil, f.twinErr
	}
	s := &fakeStaged{diffID: diffID, data: f.twins[diffID]}
	f.staged[s] = true
	return &Staged{Handle: s}, nil
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (f *fakeStore) Commit(_ context.Context, parent string, layers []Staged) (string, error) {
	if f.beforeCommit != nil {
		if err := f.beforeCommit(parent); err != nil {
			return "", err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if parent != "" && !f.layers[parent] {
		return "", ErrParentGone
	}
	f.commits = append(f.commits, []int{len(layers)})
	for _, l := range layers {
		s := l.Handle.(*fakeStaged)
		if !f.staged[s] {
			return "", errors.New("committed what is not staged")
		}
		delete(f.staged, s)
		parent = f.LayerID(parent, s.diffID)
		f.layers[parent] = true
		f.twins[s.diffID] = s.data
	}
	return parent, nil
}

func (f *fakeStore) Discard(layers []Staged) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, l := range layers {
		delete(f.staged, l.Handle.(*fakeStaged))
	}
	return nil
}

func (f *fakeStore) PutImage(_ context.Context, img Image) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if img.TopLayer != "" && !f.layers[img.TopLayer] {
		return "", errors.New("the top layer is not there")
	}
	conf, err := oci.ParseImage(img.Config)
	if err != nil {
		return "", err
	}
	l := &Local{ID: strings.TrimPrefix(digest(img.Config), "sha256:"), Digests: []string{digest(img.Manifest)}, Platform: conf.Platform}
	if img.Index != nil {
		l.Digests = append(l.Digests, digest(img.Index))
	}
	for _, n := range img.Names {
		f.images[n] = l
	}
	f.put = append(f.put, img)
	return l.ID, nil
}

func (f *fakeStore) open(context.Context) (Store, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.opened++
	return f, nil
}

// clean fails if anything is left that no image needs.
func (f *fakeStore) clean(t *testing.T) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.staged); n > 0 {
		t.Errorf("%d staged layers are left", n)
	}
	for d, l := range f.locks {
		if len(l) > 0 {
			t.Errorf("the lock of %s is still held", d)
		}
	}
}

func (f *fakeStore) names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for n := range f.images {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}
