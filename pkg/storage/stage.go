package storage

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	digest "github.com/opencontainers/go-digest"
	library "go.podman.io/storage"
	"go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/storage/unpack"
)

// LayerSource is one layer's blob on its way into the store.
type LayerSource struct {
	DiffID     string // what the config says of the uncompressed tar; checked; empty: taken as found
	BlobDigest string // what the manifest says of Body; checked; empty: taken as found
	Size       int64  // what the manifest says of Body's length; checked and not exceeded; <= 0: unknown
	Body       io.Reader
	Unlimited  bool              // no limit on what it may unpack to
	most       *atomic.Int64     // what it may unpack to, growing as it is read; nil: as of Body; see StageParts
	twin       string            // a directory that this very tar was unpacked into; see StageTwin
	twinOf     string            // whose files those are
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
	Content    int64    // bytes in its files
	Warnings   []string // what was left out or changed, for the user

	twinOf string // of whose files these are links; empty: of none
	out    *graphdriver.DriverWithDifferOutput
	split  *os.File // tar-split; nil: none
}

// A layer may unpack to limitFactor times its compressed size, or to limitSize.
const (
	limitFactor = 100
	limitSize   = 20 << 30
)

// StageLayer unpacks a layer into a directory of its own, checking its digests
// and its size on the way. It takes no lock: any number may run at once. If it
// fails, or ctx ends, nothing is left; a Body that is an io.Closer is closed
// when ctx ends, so that a read that hangs does not matter.
func (s *Store) StageLayer(ctx context.Context, src LayerSource) (*Staged, error) {
	for _, d := range []string{src.DiffID, src.BlobDigest} {
		if _, err := digestHex(d); d != "" && err != nil {
			return nil, err
		}
	}
	if c, ok := src.Body.(io.Closer); ok {
		defer context.AfterFunc(ctx, func() { _ = c.Close() })() // its reader gets the error
	}
	d := &differ{ctx: ctx, store: s, src: src}
	out, err := s.lib.PrepareStagedLayer(&graphdriver.ApplyDiffWithDifferOpts{}, d)
	if err != nil {
		if d.split != nil {
			_ = d.split.Close()
		}
		if d.dir != "" {
			err = errors.Join(err, os.RemoveAll(d.dir)) // the library leaves it; RemoveAll follows nothing
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, s.explain("unpack layer"+shortDigest(src), err)
	}
	d.staged.out, d.staged.split = out, d.split
	return d.staged, nil
}

// StageTwin stages a layer that the store has above another parent, as the one with
// this diffID on top of whatever it will be committed on. Its files are the other's,
// by links where the file system has both. It is nil if the store has none, or none
// of which it knows the tar.
func (s *Store) StageTwin(ctx context.Context, diffID string) (*Staged, error) {
	known, err := s.lib.LayersByUncompressedDigest(digest.Digest(diffID))
	if errors.Is(err, library.ErrLayerUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, l := range known {
		dir := s.reader.LayerDir(l.ID)
		r, err := s.reader.LayerTar(s.reader.noImage(), Layer{ID: l.ID})
		if dir == "" || err != nil {
			continue // it is incomplete, or being removed, or cannot be made again
		}
		st, err := s.StageLayer(ctx, LayerSource{DiffID: diffID, Body: struct{ io.Reader }{r}, Unlimited: true, twin: dir, twinOf: filesOf(l)})
		return st, errors.Join(err, r.Close())
	}
	return nil, nil
}

func shortDigest(src LayerSource) string {
	for _, d := range []string{src.BlobDigest, src.DiffID} {
		if h, ok := strings.CutPrefix(d, "sha256:"); ok {
			return " " + short(h)
		}
	}
	return "" // a tar that a user gave
}

// differ is called by the library with a directory to fill.
type differ struct {
	ctx    context.Context
	store  *Store
	src    LayerSource
	dir    string // ours to remove after a failure
	staged *Staged
	split  *os.File
}

func (d *differ) Close() error { return nil }

func (d *differ) ApplyDiff(dest string, _ *archive.TarOptions, o *graphdriver.DifferOptions) (graphdriver.DriverWithDifferOutput, error) {
	none := graphdriver.DriverWithDifferOutput{}
	d.dir = filepath.Dir(dest)
	if o.Format != graphdriver.DifferOutputFormatDir {
		return none, errs.New(errs.Unsupported, "the store keeps layers in composefs form")
	}
	split, err := os.CreateTemp(d.dir, "tar-split")
	if err != nil {
		return none, err
	}
	d.split = split
	if err := os.Remove(split.Name()); err != nil { // it goes with its descriptor
		return none, err
	}
	blob := &blobReader{ctx: d.ctx, r: d.src.Body, max: d.src.Size, sum: sha256.New()}
	stream := newTarStream(blob, d.limit, d.src.Progress)
	res, err := unpack.Tar(d.ctx, dest, stream, unpack.Options{
		Rootless: d.store.o.Rootless, Single: d.store.o.Single, IgnoreChown: d.store.o.IgnoreChown,
		Range: d.store.idRange(), TarSplit: split, Twin: d.src.twin,
	})
	stream.close()
	if err != nil {
		return none, d.blame(err, blob)
	}
	diffID := "sha256:" + hex.EncodeToString(stream.diffID.Sum(nil))
	if err := errors.Join(blob.check(d.src.BlobDigest), sameDigest("uncompressed layer", diffID, d.src.DiffID)); err != nil {
		return none, err
	}
	d.staged = &Staged{
		DiffID: diffID, BlobDigest: blob.digest(), BlobSize: blob.n.Load(),
		Size: stream.size, Entries: res.Entries, Content: res.Content, Warnings: res.Warnings, twinOf: d.src.twinOf,
	}
	if res.NoTarSplit {
		_ = d.split.Close()
		d.split = nil
		d.staged.Warnings = append(d.staged.Warnings, "a path occurs twice in it; when pushed, it will be packed anew, with another digest")
	}
	return graphdriver.DriverWithDifferOutput{
		Differ: d, Size: stream.size,
		UIDs: res.UIDs, GIDs: res.GIDs,
		UncompressedDigest: digest.Digest(diffID), CompressedDigest: digest.Digest(d.staged.BlobDigest),
		RootDirMode: res.RootMode,
	}, nil
}

// limit stops what unpacks to absurd sizes.
func (d *differ) limit(unpacked, compressed int64) error {
	most := limitFactor * compressed
	if d.src.most != nil {
		most = d.src.most.Load()
	}
	if d.src.Unlimited || unpacked <= limitSize || unpacked <= most {
		return nil
	}
	err := errs.New(errs.Invalid, fmt.Sprintf("it unpacks to more than %d GiB, over %d times its compressed size", limitSize>>30, limitFactor))
	return errs.WithHint(err, "If you trust the image, pull or load it with --unlimited.")
}

// blame finds out why unpacking failed: if the blob is not what its digest
// says, that is the reason, whatever the tar reader made of it.
func (d *differ) blame(err error, blob *blobReader) error {
	if blob.fail != nil {
		return blob.fail
	}
	if d.src.BlobDigest == "" || noSpace(err) {
		return err
	}
	if _, rest := io.Copy(io.Discard, bufio.NewReaderSize(blob, chunkSize)); rest != nil {
		return err
	}
	if bad := blob.check(d.src.BlobDigest); bad != nil {
		return bad
	}
	return err
}
