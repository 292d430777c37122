package build

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path"
	"reflect"
	"slices"
	"strings"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/source"
)

// keyVersion changes when the same step would give other files than before.
const keyVersion = 1

// hash is a key of what v says.
func hash(kind string, v any) string {
	doc, err := json.Marshal(v)
	if err != nil {
		doc = []byte(err.Error()) // plain values; a key that nothing else has is safe
	}
	h := sha256.New()
	h.Write([]byte(kind))
	h.Write([]byte{0, keyVersion})
	h.Write(doc)
	return hex.EncodeToString(h.Sum(nil))
}

// key returns the key that a node has by its definition and by the keys of what it
// reads, and for contexts by the contents: nothing of it is made for that. It is ""
// for sources that have none.
func (b *build) key(ctx context.Context, id graph.ID) (string, error) {
	if id == graph.None {
		return hash("scratch", nil), nil
	}
	n := &b.nodes[id]
	n.keyOnce.Do(func() { n.key, n.keyErr = b.makeKey(ctx, n, b.key, b.fastKey) })
	return n.key, n.keyErr
}

// slowKey is the key by what the steps that n needs have made, which must be there:
// by the contents of what is read of other stages, and by the keys under which the
// results below were made. So a step that was made anew with the same contents
// changes nothing behind it.
func (b *build) slowKey(ctx context.Context, n *node) (string, error) {
	return b.makeKey(ctx, n, b.resultKey, b.contentKey)
}

func (b *build) resultKey(ctx context.Context, id graph.ID) (string, error) {
	if id != graph.None {
		f, err := b.files(ctx, id)
		if err != nil {
			return "", err
		}
		if len(f.chain) > 0 {
			return f.chain[0].Key, nil
		}
	}
	return b.key(ctx, id)
}

// selection says which part of a file system a key is about.
type selection struct {
	from  graph.ID
	query source.Query
	owner bool
}

func (b *build) makeKey(ctx context.Context, n *node, below func(ctx context.Context, id graph.ID) (string, error),
	read func(ctx context.Context, s selection) (string, error)) (string, error) {
	d := b.definition(n)
	switch op := n.Op.(type) {
	case *graph.Image:
		if len(op.DiffIDs) > 0 {
			return hash("layers", op.DiffIDs), nil // a tag that was pushed anew with the same layers is the same
		}
		return hash("image", op.Digest), nil
	case *graph.Local:
		return "", nil
	case *graph.Git, *graph.HTTP:
		_, key, err := b.fetch(ctx, n)
		return key, err
	case *graph.Exec:
		root, err := below(ctx, op.Root)
		if err != nil {
			return "", err
		}
		keys := []string{root}
		for _, m := range op.Mounts {
			if m.Type != graph.MountBind {
				continue // what a cache holds, or a secret, does not count
			}
			k, err := read(ctx, selection{m.From, source.Query{Path: m.Source, Literal: true}, true})
			if err != nil {
				return "", err
			}
			keys = append(keys, k)
		}
		return hash("exec", []any{d, keys}), nil
	case *graph.Copy:
		on, err := below(ctx, op.On)
		if err != nil {
			return "", err
		}
		keys := []string{on}
		for _, s := range op.Sources {
			if s.From == graph.None {
				continue // its file is in the definition
			}
			k, err := read(ctx, selection{s.From, query(op, s), s.KeepOwner && op.Chown == ""})
			if err != nil {
				return "", err
			}
			keys = append(keys, k)
		}
		return hash("copy", []any{d, keys}), nil
	case *graph.Mkdir:
		on, err := below(ctx, op.On)
		return hash("mkdir", []any{d, on}), err
	case *graph.Merge:
		on, err := below(ctx, op.On)
		if err != nil {
			return "", err
		}
		layer, err := below(ctx, op.Layer)
		return hash("merge", []any{on, layer}), err
	}
	return "", nil
}

// query is how a source of a copy is looked up.
func query(op *graph.Copy, s graph.CopySource) source.Query {
	q := source.Query{Path: s.Path, Literal: s.Literal, Exclude: op.Exclude}
	if op.Parents {
		q.Path, q.Parents = strings.TrimSuffix(s.Path, "/")+"/./"+s.Include, true
	}
	return q
}

// fastKey is the contents' digest for what is there anyway, and for the results of
// other steps their key.
func (b *build) fastKey(ctx context.Context, s selection) (string, error) {
	if s.from != graph.None {
		switch b.nodes[s.from].Op.(type) {
		case *graph.Local, *graph.Git, *graph.HTTP:
			return b.contentKey(ctx, s)
		}
	}
	key, err := b.key(ctx, s.from)
	return hash("selection", []any{key, s.query, s.owner}), err
}

func (b *build) contentKey(ctx context.Context, s selection) (string, error) {
	f, err := b.lookUp(ctx, s)
	if err != nil {
		return "", err
	}
	f.sumOnce[b2i(s.owner)].Do(func() {
		t, err := b.tree(ctx, s.from)
		if err == nil {
			f.sum[b2i(s.owner)], err = t.Sum(ctx, f.matches, s.owner)
		}
		f.sumErr[b2i(s.owner)] = err
	})
	return f.sum[b2i(s.owner)], f.sumErr[b2i(s.owner)]
}

func b2i(v bool) int {
	if v {
		return 1
	}
	return 0
}

// ownSandbox is what this build gives its commands beside what the Dockerfile says;
// nil if nothing. What a directory of the host holds does not count.
func (b *build) ownSandbox() any {
	r := &b.req
	if len(r.CapAdd)+len(r.CapDrop)+len(r.Mounts)+len(r.Devices) == 0 && reflect.ValueOf(r.Security).IsZero() {
		return nil
	}
	return []any{r.CapAdd, r.CapDrop, r.Mounts, r.Devices, r.Security}
}

// definition is all of a node that decides what it makes, but for what it reads.
func (b *build) definition(n *node) any {
	type mount struct {
		graph.Mount
		From any
	}
	switch op := n.Op.(type) {
	case *graph.Exec:
		d := *op
		d.Root, d.Proxy, d.ShmSize, d.CgroupParent, d.Mounts = 0, nil, 0, "", nil
		d.Hosts = slices.Clone(op.Hosts)
		for i := range d.Hosts {
			d.Hosts[i].IP = ""
		}
		var mounts []mount
		for _, m := range op.Mounts {
			c := mount{Mount: m}
			if m.Type == graph.MountCache { // any cache will do
				c.ID, c.Sharing, c.UID, c.GID, c.Mode, c.Source = "", "", nil, nil, nil, ""
			}
			c.Mount.From = 0
			mounts = append(mounts, c)
		}
		all := []any{d, mounts, n.Platform}
		if own := b.ownSandbox(); own != nil {
			all = append(all, own)
		}
		return all
	case *graph.Copy:
		d := *op
		d.On = 0
		d.Sources = slices.Clone(op.Sources)
		for i := range d.Sources {
			s := &d.Sources[i]
			if s.From != graph.None {
				s.From = 0
				// Of the source only the name counts that the copy gets.
				s.Path = path.Base(s.Path)
			}
		}
		return []any{d, n.Epoch}
	case *graph.Mkdir:
		d := *op
		d.On = 0
		return []any{d, n.Epoch}
	}
	return nil
}
