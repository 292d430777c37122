package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// summed is a layer whose digest is being found, or was.
type summed struct {
	once sync.Once
	sum  cache.Sum
	err  error
}

// sum begins to find the digest of the uppermost layer of f.
func (b *build) sum(ctx context.Context, f *fileSystem) {
	b.sums.Go(func() { _, _ = b.summary(ctx, f) }) // whoever needs it asks again
}

// summary returns the digest of the uppermost layer of f, and what else the store
// wants to know of it.
func (b *build) summary(ctx context.Context, f *fileSystem) (cache.Sum, error) {
	r := f.chain[0]
	b.mu.Lock()
	s := b.summaries[r.ID]
	if s == nil {
		s = &summed{}
		b.summaries[r.ID] = s
	}
	b.mu.Unlock()
	s.once.Do(func() {
		var known bool
		if s.sum, known = r.Sum(); !known {
			s.sum, s.err = b.hash(ctx, f)
		}
	})
	return s.sum, s.err
}

// hash reads the files of the uppermost layer of f. The tar-split goes beside them.
func (b *build) hash(ctx context.Context, f *fileSystem) (cache.Sum, error) {
	r := f.chain[0]
	upper, lower, release, err := b.openLayers(ctx, f)
	if err != nil {
		return cache.Sum{}, err
	}
	defer release()
	split, err := os.OpenFile(r.SplitPath(), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return cache.Sum{}, err
	}
	got, err := changes.Tar(ctx, nil, upper, lower, changes.TarOptions{TarSplit: split})
	if err = errors.Join(err, split.Close()); err != nil {
		return cache.Sum{}, err
	}
	s := cache.Sum{DiffID: got.DiffID, Size: got.Size, UIDs: got.UIDs, GIDs: got.GIDs, RootMode: uint32(*got.RootMode)}
	return s, r.SetSum(ctx, s)
}

// open opens the directories of f, top first, so that they may be moved meanwhile.
func (b *build) open(ctx context.Context, f *fileSystem) ([]*os.File, error) {
	still, err := b.cache.Still(ctx)
	if err != nil {
		return nil, err
	}
	defer still()
	dirs, err := b.dirs(ctx, f)
	if err != nil {
		return nil, err
	}
	var open []*os.File
	for _, d := range dirs {
		d, err := os.Open(d)
		if err != nil {
			closeAll(open)
			return nil, err
		}
		open = append(open, d)
	}
	return open, nil
}

func closeAll(open []*os.File) {
	for _, f := range open {
		_ = f.Close() // read only
	}
}

// names are paths by which this process finds open directories.
func names(open []*os.File) []string {
	var list []string
	for _, f := range open {
		list = append(list, sys.FDPath(int(f.Fd())))
	}
	return list
}

// openLayers opens the directory of the uppermost layer of f and those below it.
func (b *build) openLayers(ctx context.Context, f *fileSystem) (upper string, lower []string, release func(), err error) {
	open, err := b.open(ctx, f)
	if err != nil {
		return "", nil, nil, err
	}
	list := names(open)
	if f.chain[0].Diff != "" { // it stands for itself, whatever is below
		list = list[:1]
	}
	return list[0], list[1:], func() { closeAll(open) }, nil
}

// below is f without its uppermost layers.
func (f *fileSystem) below(n int) *fileSystem {
	return &fileSystem{chain: f.chain[n:], base: f.base, top: f.top}
}

// built makes the documents of one result, and records it if that is wanted.
func (b *build) built(ctx context.Context, r graph.Result) (*Built, error) {
	f, err := b.files(ctx, r.Node)
	if err != nil {
		return nil, err
	}
	out := &Built{Platform: r.Platform}
	if len(f.chain) != len(r.Layers) {
		return nil, errs.New(errs.Internal, fmt.Sprintf("%d layers were made, and %d are in the plan", len(f.chain), len(r.Layers)))
	}
	if b.req.Record {
		if f, err = b.rewritten(ctx, f); err != nil {
			return nil, err
		}
	}
	var sums []cache.Sum
	made := make([]time.Time, len(f.chain))
	for i := range f.chain { // bottom first
		at := f.below(len(f.chain) - 1 - i)
		s, err := b.summary(ctx, at)
		if err != nil {
			return nil, err
		}
		sums = append(sums, s)
		made[i] = at.chain[0].Created
	}
	config := r.Config
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = slices.Clone(config.RootFS.DiffIDs)
	if w := b.req.Rewrite; b.req.Record && len(f.chain) > 0 && (w.Squash || w.SquashAll) {
		from := r.BaseHistory
		if w.SquashAll {
			from, config.RootFS.DiffIDs = 0, nil
		}
		config.History = squashHistory(config.History, from)
	}
	for _, d := range config.RootFS.DiffIDs {
		out.Layers = append(out.Layers, BuiltLayer{DiffID: d, Size: -1})
	}
	for _, s := range sums {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, s.DiffID)
		out.Layers = append(out.Layers, BuiltLayer{DiffID: s.DiffID, Size: s.Size})
	}
	date(&config, r, made)
	if out.Config, err = json.Marshal(config); err != nil {
		return nil, err
	}
	if b.req.Inline != nil {
		if out.Config, err = b.inline(ctx, r, out.Config); err != nil {
			return nil, err
		}
	}
	out.ID = digestHex(out.Config)
	id := f.top
	for i := range out.Layers {
		if i < len(out.Layers)-len(sums) {
			continue
		}
		id = b.s.o.Layers.LayerID(id, out.Layers[i].DiffID)
		out.Layers[i].ID = id
	}
	out.TopLayer = id
	if !b.req.Record {
		return out, nil
	}
	if config.Created.IsZero() {
		config.Created = b.begun // the store wants one
	}
	return out, b.record(ctx, f, sums, out, config.Created)
}

func digestHex(doc []byte) string {
	sum := sha256.Sum256(doc)
	return hex.EncodeToString(sum[:])
}

// date fills in the times that only the build knows: a layer's is when it was
// made, and what comes after it has the same, so that the same layers give the same
// image. One without layers has no time, as in BuildKit.
func date(config *oci.Image, r graph.Result, made []time.Time) {
	config.History = slices.Clone(config.History)
	// Images without a history, or with less than they have layers: entries are
	// made up, as their number must be that of the layers.
	base := len(config.RootFS.DiffIDs) - len(made)
	have := 0
	for _, h := range config.History[:r.BaseHistory] {
		if !h.EmptyLayer {
			have++
		}
	}
	for ; have < base; have++ {
		config.History = slices.Insert(config.History, r.BaseHistory, oci.History{})
	}
	layer := 0
	last := time.Time{}
	for i := range config.History {
		h := &config.History[i]
		if i >= len(config.History)-(len(r.Config.History)-r.BaseHistory) {
			if !h.EmptyLayer {
				if h.Created.IsZero() && layer < len(made) {
					h.Created = made[layer]
				}
				layer++
			} else if h.Created.IsZero() {
				h.Created = last
			}
		}
		if !h.Created.IsZero() {
			last = h.Created
		}
	}
	if config.Created.IsZero() {
		config.Created = last
	}
	for i := range config.History { // before the first layer
		if config.History[i].Created.IsZero() && i >= len(config.History)-(len(r.Config.History)-r.BaseHistory) {
			config.History[i].Created = config.Created
		}
	}
}

// manifest is the image's, over its layers as they are in the store: uncompressed.
func (b *build) manifest(out *Built) ([]byte, error) {
	types := [3]string{oci.TypeDockerManifest, oci.TypeDockerConfig, "application/vnd.docker.image.rootfs.diff.tar"}
	if b.req.OCI {
		types = [3]string{oci.TypeOCIManifest, oci.TypeOCIConfig, "application/vnd.oci.image.layer.v1.tar"}
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Size      int64  `json:"size"`
		Digest    string `json:"digest"`
	}
	m := struct {
		SchemaVersion int               `json:"schemaVersion"`
		MediaType     string            `json:"mediaType"`
		Config        descriptor        `json:"config"`
		Layers        []descriptor      `json:"layers"`
		Annotations   map[string]string `json:"annotations,omitempty"`
	}{2, types[0], descriptor{types[1], int64(len(out.Config)), "sha256:" + out.ID}, []descriptor{}, b.req.Annotations}
	for _, l := range out.Layers {
		m.Layers = append(m.Layers, descriptor{types[2], l.Size, l.DiffID})
	}
	return json.Marshal(m)
}

// record makes the layers the store's and records the image.
func (b *build) record(ctx context.Context, f *fileSystem, sums []cache.Sum, out *Built, created time.Time) error {
	have, err := b.s.o.Layers.Manifest(ctx, out.ID, b.req.Names)
	if err != nil {
		return err
	}
	if b.asAsked(have) { // all is as it was
		out.Manifest = have
		b.exported(b.req.Progress.Step("exporting to image"), out, nil)
		return nil
	}
	if f.base != graph.None { // the image's layers are in the store from here on
		if err := b.fetchImage(ctx, &b.nodes[f.base], f); err != nil {
			return err
		}
	}
	sizes, err := b.s.o.Layers.Sizes(ctx, f.top)
	if err != nil {
		return err
	}
	for i, n := range sizes { // of the image below, bottom first
		if i < len(out.Layers)-len(sums) {
			out.Layers[i].Size = n
		}
	}
	if out.Manifest, err = b.manifest(out); err != nil {
		return err
	}
	step := b.req.Progress.Step("exporting to image")
	err = b.put(ctx, f, sums, out, created)
	b.exported(step, out, err)
	return err
}

// asAsked reports whether a manifest of the same config has the form and the annotations
// that this build gives.
func (b *build) asAsked(manifest []byte) bool {
	m, _, err := oci.ParseManifest(manifest, "")
	return err == nil && m != nil && (m.MediaType == oci.TypeOCIManifest) == b.req.OCI && maps.Equal(m.Annotations, b.req.Annotations)
}

// exported ends the step that says what became of the image.
func (b *build) exported(step *progress.Step, out *Built, err error) {
	if err == nil {
		step.ItemDone("writing image sha256:"+out.ID, 0)
		for _, n := range b.req.Names {
			step.ItemDone("naming to "+n, 0)
		}
	}
	step.Done(err)
}

func (b *build) put(ctx context.Context, f *fileSystem, sums []cache.Sum, out *Built, created time.Time) error {
	st, err := b.store()
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := st.Sync(); err != nil {
		return err
	}
	if err := b.cache.Synced(begun); err != nil {
		return err
	}
	parent := f.top
	for i, s := range sums {
		if parent, err = b.adopt(ctx, st, parent, f.chain[len(f.chain)-1-i], s); err != nil {
			return err
		}
	}
	if len(sums) > 0 { // first: nothing takes the layers from the image that is about to be
		if err := st.HoldLayer(ctx, parent); err != nil {
			return err
		}
	}
	out.ID, err = st.PutImage(ctx, Image{Names: b.req.Names, TopLayer: parent, Config: out.Config, Manifest: out.Manifest, Created: created})
	return err
}

// adopt makes a result's directory a layer on parent.
func (b *build) adopt(ctx context.Context, st Store, parent string, r *cache.Result, s cache.Sum) (string, error) {
	mode := os.FileMode(s.RootMode)
	l := NewLayer{Dir: r.Files(), Keep: r.Diff != "", Sum: changes.Summary{
		DiffID: s.DiffID, Size: s.Size, UIDs: s.UIDs, GIDs: s.GIDs, RootMode: &mode,
	}}
	split, err := os.Open(r.SplitPath())
	if err == nil {
		l.TarSplit = split
		defer split.Close()
	}
	moving, err := b.cache.Moving(ctx)
	if err != nil {
		return "", err
	}
	defer moving()
	id, err := st.AdoptLayer(ctx, parent, l)
	if err != nil {
		return "", err
	}
	_ = os.Remove(r.SplitPath()) // it is the store's
	return id, nil
}
