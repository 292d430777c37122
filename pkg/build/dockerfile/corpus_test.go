package dockerfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/corpus"
	"cais.dev/cais/test/golden"
)

type images map[string]oci.Image

func (im images) Resolve(_ context.Context, img dockerfile.Image) (dockerfile.Base, error) {
	ref, err := oci.Parse(img.Ref)
	if err != nil {
		return dockerfile.Base{}, err
	}
	cfg, ok := im[ref.FamiliarName()]
	if !ok {
		return dockerfile.Base{}, errs.New(errs.NotFound, "not found")
	}
	cfg.Platform = img.Platform
	return dockerfile.Base{Digest: corpus.Digest, Config: cfg}, nil
}

// Every case's plan, or its mistake with the place. What BuildKit makes of the same texts
// is test/buildkit's business; here a change is seen without it.
func TestCorpus(t *testing.T) {
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range cases {
		o, err := c.Options(func(string) string { return "/home/me" })
		if err != nil {
			t.Fatal(err)
		}
		o.Resolver = images(corpus.Images())
		fmt.Fprintf(&b, "== %s\n", c.Name)
		found, _ := dockerfile.Check(t.Context(), c.Dockerfile, o)
		for _, w := range found {
			fmt.Fprintf(&b, "%s %s %v\n", w.Rule, w.Message, w.Lines)
		}
		p, err := dockerfile.Convert(t.Context(), c.Dockerfile, o)
		if err != nil {
			fmt.Fprintln(&b, err)
			if at, ok := errors.AsType[*dockerfile.Error](err); ok {
				b.WriteString(at.Excerpt())
			}
			if errs.KindOf(err) == errs.Internal {
				t.Errorf("%s: %v has no kind", c.Name, err)
			}
			if !strings.HasPrefix(c.Name, "mistake-") && c.Name != "lint-error" && c.Name != "lint" {
				t.Errorf("%s: %v", c.Name, err)
			}
			continue
		}
		b.WriteString(list(p.Graph))
		if len(p.UnusedArgs) > 0 {
			fmt.Fprintf(&b, "unused %v\n", p.UnusedArgs)
		}
		ordered(t, c.Name, p.Graph)
	}
	golden.Text(t, "testdata/corpus.txt", b.String())
}

// ordered checks what graph promises of its nodes.
func ordered(t *testing.T, name string, g *graph.Graph) {
	t.Helper()
	for i, n := range g.Nodes {
		for _, in := range n.Op.Inputs() {
			if in >= graph.ID(i) || in < graph.None {
				t.Errorf("%s: node %d reads %d", name, i, in)
			}
		}
	}
	for _, r := range g.Results {
		full := 0
		for _, h := range r.Config.History[r.BaseHistory:] {
			if !h.EmptyLayer {
				full++
			}
		}
		if full != len(r.Layers) {
			t.Errorf("%s: %d entries of history are layers, there are %d", name, full, len(r.Layers))
		}
		at := r.Node
		for i := len(r.Layers) - 1; i >= 0; i-- {
			if at != r.Layers[i] {
				t.Errorf("%s: layer %d is node %d, want %d", name, i, r.Layers[i], at)
				break
			}
			at = g.Nodes[at].Op.Base()
		}
		if at != r.Base {
			t.Errorf("%s: base is %d, the layers end at %d", name, r.Base, at)
		}
	}
}

// list has a line for each node, in JSON without what is empty.
func list(g *graph.Graph) string {
	var b strings.Builder
	for i, n := range g.Nodes {
		var fields map[string]any
		data, _ := json.Marshal(n.Op)
		_ = json.Unmarshal(data, &fields)
		delete(fields, "Digest")
		delete(fields, "DiffIDs")
		short, _ := json.Marshal(dropEmpty(fields))
		fmt.Fprintf(&b, "%d %s %s %s\n", i, strings.ReplaceAll(n.Name, "@"+corpus.Digest, ""), strings.TrimPrefix(fmt.Sprintf("%T", n.Op), "*graph."), short)
	}
	for _, r := range g.Results {
		cfg, _ := json.Marshal(r.Config.Config)
		fmt.Fprintf(&b, "=> %d of %v %s\n", r.Node, r.Layers, cfg)
		for _, h := range r.Config.History[r.BaseHistory:] {
			fmt.Fprintf(&b, "   %s\n", h.CreatedBy)
		}
	}
	return b.String()
}

func dropEmpty(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			switch e := dropEmpty(e); e {
			case nil, "", false, 0.0:
				delete(v, k)
			default:
				v[k] = e
			}
		}
	case []any:
		for i := range v {
			v[i] = dropEmpty(v[i])
		}
	}
	return v
}
