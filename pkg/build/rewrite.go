package build

import (
	"context"
	"io"
	"os"
	"slices"
	"time"

	"cais.dev/cais/pkg/build/cache"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/layer/changes"
	"cais.dev/cais/pkg/oci"
)

// Rewrite says in what the layers of an image differ from those that its steps made.
type Rewrite struct {
	Latest time.Time // no file has a later time; zero: its own
	Time   time.Time // all files have this time; zero: their own
	// Squash makes one layer of those of the build, SquashAll of those of the image
	// below, too.
	Squash, SquashAll bool
}

// rewritten is f with its layers as the request wants them. What is made of the same
// steps in the same way is found again.
func (b *build) rewritten(ctx context.Context, f *fileSystem) (*fileSystem, error) {
	w := b.req.Rewrite
	if w == (Rewrite{}) || len(f.chain) == 0 && (!w.SquashAll || f.base == graph.None) {
		return f, nil
	}
	step := b.req.Progress.Step("rewriting layers")
	out, err := b.rewrite(ctx, f, w)
	step.Done(err)
	return out, err
}

func (b *build) rewrite(ctx context.Context, f *fileSystem, w Rewrite) (*fileSystem, error) {
	if f.base != graph.None { // the image's layers are in the store from here on
		if err := b.fetchImage(ctx, &b.nodes[f.base], f); err != nil {
			return nil, err
		}
	}
	out := &fileSystem{base: f.base, top: f.top}
	if w.SquashAll {
		out = &fileSystem{base: graph.None}
	}
	parts := []int{} // how many of the chain's layers make up each new one, bottom first
	for range f.chain {
		parts = append(parts, 1)
	}
	if w.Squash || w.SquashAll {
		parts = []int{len(f.chain)}
	}
	ids := []string{f.top}
	layer := out.top
	for i, n := range parts {
		left := len(f.chain) - n // above which layers the part ends
		if len(parts) > 1 {
			left = len(f.chain) - 1 - i
		}
		at := f.below(left)
		for _, r := range at.chain[:n] {
			ids = append(ids, r.ID)
		}
		if len(parts) == 1 {
			at, ids = f, append([]string{f.top}, chainIDs(f)...)
		}
		key := hash("rewrite", []any{ids, w})
		r, id, err := b.rewriteLayer(ctx, at, n, key, layer, out, w)
		if err != nil {
			return nil, err
		}
		b.hold(r)
		layer = id
		out.chain = append([]*cache.Result{r}, out.chain...)
	}
	return out, nil
}

func chainIDs(f *fileSystem) []string {
	var ids []string
	for _, r := range f.chain {
		ids = append(ids, r.ID)
	}
	return ids
}

// rewriteLayer makes of the n uppermost layers of f one of the store on the layer
// parent, and a result above those of below that stands for it.
func (b *build) rewriteLayer(ctx context.Context, f *fileSystem, n int, key, parent string, below *fileSystem, w Rewrite) (*cache.Result, string, error) {
	under := ""
	if len(below.chain) > 0 {
		under = below.chain[0].ID
	}
	if have, err := b.cache.Get(b.cache.Lookup(key)); err != nil {
		return nil, "", err
	} else if have != nil {
		if s, ok := have.Sum(); ok && have.Parent == under && have.Base == below.top {
			if id := b.s.o.Layers.LayerID(parent, s.DiffID); b.s.o.Layers.LayerDir(id) != "" {
				return have, id, nil
			}
		}
		have.Release()
	}
	open, err := b.open(ctx, f)
	if err != nil {
		return nil, "", err
	}
	defer closeAll(open)
	upper, lower := names(open), []string(nil)
	if !w.SquashAll {
		upper, lower = upper[:n], upper[n:]
	}
	pack := func(ctx context.Context, to io.Writer) (*changes.Summary, error) {
		return changes.Squash(ctx, to, upper, lower, changes.TarOptions{Clamp: w.Latest, Time: w.Time})
	}
	sum, err := pack(ctx, nil)
	if err != nil {
		return nil, "", err
	}
	st, err := b.store()
	if err != nil {
		return nil, "", err
	}
	id, err := st.PutLayer(ctx, parent, sum.DiffID, func(to io.Writer) error {
		_, err := pack(ctx, to)
		return err
	})
	if err == nil {
		err = st.HoldLayer(ctx, id)
	}
	if err != nil {
		return nil, "", err
	}
	m, err := b.cache.Make(ctx)
	if err != nil {
		return nil, "", err
	}
	if err := os.Remove(m.Dir()); err != nil { // the files are the store's
		m.Discard()
		return nil, "", err
	}
	meta := cache.Meta{Key: key, Parent: under, Base: below.top, Text: "rewritten layers", Kind: "regular", Created: b.begun}
	if len(f.chain) > 0 {
		meta.Text, meta.Created = f.chain[0].Text, f.chain[0].Created
	}
	r, err := m.Finish(meta)
	if err != nil {
		m.Discard()
		return nil, "", err
	}
	mode := os.FileMode(0o755)
	if sum.RootMode != nil {
		mode = *sum.RootMode
	}
	if err := r.SetSum(ctx, cache.Sum{DiffID: sum.DiffID, Size: sum.Size, UIDs: sum.UIDs, GIDs: sum.GIDs, RootMode: uint32(mode)}); err != nil {
		return nil, "", err
	}
	return r, id, b.cache.Put(ctx, key, r.ID, true)
}

// squashHistory leaves one entry with a layer: the last that had one of those that
// became one. from is the first entry about them.
func squashHistory(list []oci.History, from int) []oci.History {
	list = slices.Clone(list)
	last := true
	for i := len(list) - 1; i >= from; i-- {
		if !list[i].EmptyLayer {
			list[i].EmptyLayer = !last
			last = false
		}
	}
	return list
}
