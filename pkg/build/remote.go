package build

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"slices"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/layer/changes"
)

// CacheRecord is what one step made, in a cache that is kept elsewhere.
type CacheRecord struct {
	Keys    []string // any of them means this step; equal on all machines
	Parent  int      // index of the record below; -1 if that is the image Base
	Base    []string // diffIDs of the image at the bottom, bottom first
	DiffID  string
	Size    int64 // of the layer's tar
	Created time.Time
	Text    string // what made it

	// Tar writes the layer's tar; nil in a cache that was imported. It works until
	// the build's [Result] is closed.
	Tar func(ctx context.Context, w io.Writer) error
}

// CacheSource is a cache that is kept elsewhere.
type CacheSource struct {
	Records []CacheRecord
	// Fetch sees to it that the store has the layers with these diffIDs, one on the
	// other, bottom first. It is asked only for what a step needs.
	Fetch func(ctx context.Context, diffIDs []string, step *progress.Step) error
}

// CacheMode says what of a build goes into its Result's Cache.
type CacheMode string

// The modes, in BuildKit's words.
const (
	CacheNone CacheMode = ""
	CacheMin  CacheMode = "min" // the layers of the images
	CacheMax  CacheMode = "max" // and those of the stages before them
)

// InlineKey is the part of an image's config that is a cache (BuildKit's
// exporter/containerimage/exptypes/types.go).
const InlineKey = "moby.buildkit.cache.v0"

// inline puts the records of a result's layers into its config.
func (b *build) inline(ctx context.Context, r graph.Result, config []byte) ([]byte, error) {
	records, err := b.export(ctx, func(n *node) bool { return slices.Contains(r.Layers, n.id) })
	if err != nil {
		return nil, err
	}
	value, err := b.req.Inline(records)
	if err != nil {
		return nil, err
	}
	field, err := json.Marshal(map[string][]byte{InlineKey: value}) // in base64
	if err != nil {
		return nil, err
	}
	return append(append(bytes.TrimSuffix(config, []byte("}")), ','), field[1:]...), nil
}

// inMode tells which nodes' layers go into a cache.
func inMode(mode CacheMode) func(*node) bool {
	return func(n *node) bool { return mode == CacheMax || n.wanted }
}

// export lists what was made, and what was found, as records.
func (b *build) export(ctx context.Context, wanted func(*node) bool) ([]CacheRecord, error) {
	var list []CacheRecord
	index := map[string]int{} // by result
	var add func(f *fileSystem, id graph.ID) (int, error)
	add = func(f *fileSystem, id graph.ID) (int, error) {
		if len(f.chain) == 0 {
			return -1, nil
		}
		r := f.chain[0]
		if i, ok := index[r.ID]; ok {
			return i, nil
		}
		parent, err := add(f.below(1), b.nodes[id].Op.Base())
		if err != nil {
			return 0, err
		}
		s, err := b.summary(ctx, f)
		if err != nil {
			return 0, err
		}
		key, err := b.key(ctx, id)
		if err != nil {
			return 0, err
		}
		rec := CacheRecord{
			Keys: []string{key}, Parent: parent, DiffID: s.DiffID, Size: s.Size, Created: r.Created, Text: r.Text,
			Tar: func(ctx context.Context, w io.Writer) error { return b.writeTar(ctx, f, w) },
		}
		if r.Key != key {
			rec.Keys = append(rec.Keys, r.Key)
		}
		if f.base != graph.None {
			if op, ok := b.nodes[f.base].Op.(*graph.Image); ok {
				rec.Base = op.DiffIDs
			}
		}
		list = append(list, rec)
		index[r.ID] = len(list) - 1
		return len(list) - 1, nil
	}
	for i := range b.nodes {
		n := &b.nodes[i]
		if n.files == nil || n.err != nil || !wanted(n) {
			continue
		}
		if _, err := add(n.files, n.id); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// writeTar writes the uppermost layer of f.
func (b *build) writeTar(ctx context.Context, f *fileSystem, w io.Writer) error {
	upper, lower, release, err := b.openLayers(ctx, f)
	if err != nil {
		return err
	}
	defer release()
	_, err = changes.Tar(ctx, w, upper, lower, changes.TarOptions{})
	return err
}

// imported looks for key in the caches that were given, and has the store get the
// layers of what it finds. nil if it finds nothing.
func (b *build) imported(ctx context.Context, n *node, key string) (*fileSystem, error) {
	for _, src := range b.req.CacheFrom {
		at := slices.IndexFunc(src.Records, func(r CacheRecord) bool { return slices.Contains(r.Keys, key) })
		if at < 0 {
			continue
		}
		chain := b.recordChain(n, src.Records, at)
		if chain == nil {
			continue
		}
		diffIDs := slices.Clone(src.Records[at].Base)
		for _, i := range chain {
			diffIDs = append(diffIDs, src.Records[i].DiffID)
		}
		step := b.show(n)
		err := src.Fetch(ctx, diffIDs, step)
		if err != nil {
			if ctx.Err() != nil {
				step.Done(context.Cause(ctx))
				return nil, context.Cause(ctx)
			}
			// A cache that cannot be had is none.
			step.Warn("the cache is not used: " + err.Error())
			step.Done(nil)
			return nil, nil
		}
		if err := b.adoptRecords(ctx, src, chain, at); err != nil {
			step.Done(err)
			return nil, err
		}
		step.Cached()
		return b.cached(n, key)
	}
	return nil, nil
}

// recordChain returns the records from the lowest to the one at index at, if they
// fit n and the steps below it.
func (b *build) recordChain(n *node, records []CacheRecord, at int) []int {
	var chain []int
	id := n.id
	for at >= 0 {
		if at >= len(records) || len(chain) > 500 || id == graph.None {
			return nil
		}
		if _, image := b.nodes[id].Op.(*graph.Image); image {
			return nil
		}
		chain = append(chain, at)
		at, id = records[at].Parent, b.nodes[id].Op.Base()
	}
	var base []string
	if id != graph.None {
		op, ok := b.nodes[id].Op.(*graph.Image)
		if !ok {
			return nil
		}
		base = op.DiffIDs
	}
	if !slices.Equal(base, records[chain[0]].Base) {
		return nil
	}
	slices.Reverse(chain)
	return chain
}

// adoptRecords makes results of records whose layers the store has.
func (b *build) adoptRecords(ctx context.Context, src CacheSource, chain []int, at int) error {
	base := ""
	for _, d := range src.Records[at].Base {
		base = b.s.o.Layers.LayerID(base, d)
	}
	parent := ""
	for _, i := range chain {
		rec := src.Records[i]
		last := rec.Keys[len(rec.Keys)-1]
		have, err := b.cache.Get(b.cache.Lookup(last))
		if err != nil {
			return err
		}
		if have != nil {
			if s, ok := have.Sum(); ok && s.DiffID == rec.DiffID && have.Parent == parent && have.Base == base {
				b.hold(have)
				parent = have.ID
				continue
			}
			have.Release()
		}
		m, err := b.cache.Make(ctx)
		if err != nil {
			return err
		}
		if err := os.Remove(m.Dir()); err != nil { // the files are the store's
			m.Discard()
			return err
		}
		r, err := m.Finish(cache.Meta{Parent: parent, Base: base, Key: last, Text: rec.Text, Kind: "regular", Created: rec.Created})
		if err != nil {
			m.Discard()
			return err
		}
		b.hold(r)
		if err := r.SetSum(ctx, cache.Sum{DiffID: rec.DiffID, Size: rec.Size, RootMode: 0o755}); err != nil {
			return err
		}
		for _, k := range rec.Keys {
			if err := b.cache.Put(ctx, k, r.ID, true); err != nil {
				return err
			}
		}
		parent = r.ID
	}
	return nil
}
