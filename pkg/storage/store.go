package storage

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"strings"
	"time"

	"cais.dev/cais/pkg/errs"
)

// LayerSource is one layer's blob on its way into the store.
type LayerSource struct {
	DiffID     string // what the config says of the uncompressed tar; checked; empty: taken as found
	BlobDigest string // what the manifest says of Body; checked; empty: taken as found
	Size       int64  // what the manifest says of Body's length; checked and not exceeded; <= 0: unknown
	Body       io.Reader
	Unlimited  bool              // no limit on what it may unpack to
	Progress   func(bytes int64) // called now and then with the bytes of tar unpacked so far; may be nil
}

// Staged is a layer whose files are complete but which is not recorded yet.
// It must be given to CommitLayers or Discard.
type Staged struct {
	DiffID     string
	BlobDigest string
	BlobSize   int64 // bytes read from Body
	Size       int64 // bytes of the uncompressed tar
	Entries    int
	Warnings   []string // what was left out or changed, for the user
}

// ImageSpec is a new image.
type ImageSpec struct {
	Names    []string // full references; taken away from the images that had them
	TopLayer string   // layer id; empty for an image without layers
	Config   []byte   // its sha256 is the image's id
	Manifest []byte   // the platform's; its sha256 is the image's digest
	Index    []byte   // the index it was found through; nil if none
	Created  time.Time
}

// RemoveOptions are rmi's.
type RemoveOptions struct {
	Force   bool
	NoPrune bool // keep parents without names
	// Running tells whether the cais container id runs; nil: none does.
	Running func(id string) bool
}

// Removed is one line of rmi: exactly one field is set.
type Removed struct {
	Untagged string // the full reference
	Deleted  string // "sha256:…": the image, then its layers' chain ids, leaf first
}

// LayerID is the id of the layer with the given diffID on top of parent, which
// is a layer's id or empty. It is the same in every tool of this store.
func LayerID(parent, diffID string) string {
	hexID := strings.TrimPrefix(diffID, "sha256:")
	if parent == "" {
		return hexID
	}
	sum := sha256.Sum256([]byte(parent + "+" + hexID))
	return hex.EncodeToString(sum[:])
}

// Store is the side that changes images.
type Store struct{ o Options }

var errNotYet = errs.New(errs.Unsupported, "changing the image store is being written")

// Open opens the store for changes, making it if it is missing. It finishes
// what a killed process left half done.
func Open(ctx context.Context, o Options) (*Store, error) { return nil, errNotYet }

// Close ends the use of the store.
func (s *Store) Close() error { return errNotYet }

// HasLayer reports whether the store has the layer with this id (see [LayerID]).
func (s *Store) HasLayer(id string) bool { return false }

// LockDigest waits until no other process works on the blob with this digest
// and returns what ends the exclusion. waiting, if not nil, is called once if it
// has to wait.
func (s *Store) LockDigest(ctx context.Context, digest string, waiting func()) (release func(), err error) {
	return nil, errNotYet
}

// StageLayer unpacks a layer into a directory of its own, checking its digests
// and its size on the way. It takes no lock: any number may run at once.
func (s *Store) StageLayer(ctx context.Context, src LayerSource) (*Staged, error) {
	return nil, errNotYet
}

// CommitLayers records the staged layers, bottom first, on top of the layer
// parent (empty: none) and returns the id of the last. All of them are flushed
// to disk at once before the first is recorded. A layer that exists already is
// taken, and ours dropped. If parent is gone, it fails with [ErrParentGone] and
// the layers stay staged.
func (s *Store) CommitLayers(ctx context.Context, parent string, layers ...*Staged) (top string, err error) {
	return "", errNotYet
}

// Discard removes staged layers that are not committed; others are left alone.
func (s *Store) Discard(layers ...*Staged) error { return errNotYet }

// ErrParentGone says that the layer to build on was removed in the meantime.
var ErrParentGone = errs.New(errs.Unavailable, "a layer below was removed meanwhile")

// PutImage records an image, or adds names and documents to the one that has
// its id already, and returns it.
func (s *Store) PutImage(ctx context.Context, spec ImageSpec) (*Image, error) { return nil, errNotYet }

// Tag gives the image ref (as for [Reader.Image]) one more name.
func (s *Store) Tag(ctx context.Context, name string, refs ...string) error { return errNotYet }

// Untag takes names away from whatever image has them.
func (s *Store) Untag(ctx context.Context, names ...string) error { return errNotYet }

// RemoveImage does what rmi does with one argument, and returns what it did,
// also beside an error. refs are as for [Reader.Image].
func (s *Store) RemoveImage(ctx context.Context, o RemoveOptions, refs ...string) ([]Removed, error) {
	return nil, errNotYet
}

// CollectOptions say what is garbage.
type CollectOptions struct {
	// Live tells whether the cais container id exists; nil: container records
	// are left alone.
	Live func(id string) bool
	// Age is how old an unreferenced layer must be; 0: an hour.
	Age time.Duration
	// DryRun only counts.
	DryRun bool
}

// Collected is what Collect removed.
type Collected struct {
	Layers     []string // ids of layers that nothing used
	Containers []string // ids of records whose container is gone
	Staging    int      // directories left by killed processes
	Bytes      int64    // as far as known
}

// Collect removes what killed processes and failed pulls of any tool left.
func (s *Store) Collect(ctx context.Context, o CollectOptions) (Collected, error) {
	return Collected{}, errNotYet
}
