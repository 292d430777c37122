package dockerfile_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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
	if cfg.Architecture == "" {
		cfg.Platform = img.Platform
	}
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
	rules := map[string]bool{}
	for _, c := range cases {
		o, err := c.Options(func(string) string { return "/home/me" })
		if err != nil {
			t.Fatal(err)
		}
		o.Resolver = images(corpus.Images())
		fmt.Fprintf(&b, "== %s\n", c.Name)
		found := check(t.Context(), c.Dockerfile, o)
		for _, w := range found {
			rules[w.Rule] = true
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
	if all := 22; len(rules) != all {
		t.Errorf("the cases show %d of %d rules: %q", len(rules), all, slices.Sorted(maps.Keys(rules)))
	}
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

// A Dockerfile may come from anybody: no text makes the converter fail in another way
// than with an error, or wait long.
func FuzzConvert(f *testing.F) {
	cases, err := corpus.Load()
	if err != nil {
		f.Fatal(err)
	}
	for _, c := range cases {
		f.Add(c.Dockerfile)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 4000 {
			t.Skip()
		}
		o, err := corpus.Case{}.Options(func(string) string { return "" })
		if err != nil {
			t.Fatal(err)
		}
		o.Resolver = images(corpus.Images())
		_ = check(t.Context(), text, o)
		_, _ = dockerfile.Describe(t.Context(), text, o)
		_, _ = dockerfile.Targets(text, "Dockerfile")
		p, err := dockerfile.Convert(t.Context(), text, o)
		if err != nil {
			if errs.KindOf(err) == errs.Internal {
				t.Errorf("%v has no kind", err)
			}
			if at, ok := errors.AsType[*dockerfile.Error](err); ok {
				_ = at.Excerpt()
			}
			return
		}
		ordered(t, "fuzz", p.Graph)
	})
}

// Variables that double, stages without end: an error, or a plan soon.
func TestHostile(t *testing.T) {
	o, err := corpus.Case{}.Options(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	o.Resolver = images(corpus.Images())
	convert := func(text string) error {
		_, err := dockerfile.Convert(t.Context(), []byte(text), o)
		return err
	}
	for name, text := range map[string]string{
		"env":     "FROM scratch\nENV A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("ENV A=$A$A\n", 60),
		"arg":     "FROM scratch\nARG A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("ARG A=$A$A\n", 60),
		"global":  "ARG A=xxxxxxxxxxxxxxxx\n" + strings.Repeat("ARG A=$A$A\n", 60) + "FROM scratch\n",
		"wide":    "FROM scratch\nENV A=" + strings.Repeat("x", 60000) + "\nENV A=" + strings.Repeat("$A", 30000) + "\nLABEL b=" + strings.Repeat("$A", 30000) + "\n",
		"heredoc": "FROM scratch\nENV A=" + strings.Repeat("x", 60000) + "\nCOPY <<E /x\n" + strings.Repeat("$A\n", 30000) + "E\n",
	} {
		if err := convert(text); err == nil || !strings.Contains(err.Error(), "longer than") {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	for _, trigger := range []string{"# check=skip=all\nRUN x", "FROM x", "ONBUILD RUN x", "", "RUN x\nRUN y", "RUN <<EOF", "COPY --from=0 a b", "ADD x", "\x00"} {
		o := o
		o.Resolver = images{"evil": {Config: oci.Config{OnBuild: []string{trigger}}}}
		_, _ = dockerfile.Convert(t.Context(), []byte("FROM evil\n"), o)
	}
	var b strings.Builder
	b.WriteString("FROM scratch AS s0\n")
	for i := 1; i < 3000; i++ {
		fmt.Fprintf(&b, "FROM scratch AS s%d\nCOPY --from=s%d / /\n", i, i-1)
	}
	if err := convert(b.String()); err != nil {
		t.Error(err)
	}
}

// Docker's own syntax is the one there is, under whichever name it is kept.
func TestSyntax(t *testing.T) {
	o, err := corpus.Case{}.Options(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	for text, bad := range map[string]bool{
		"# syntax=docker/dockerfile:1\nFROM scratch":                                       false,
		"# syntax = docker.io/docker/dockerfile:1.7-labs\nFROM scratch":                    false,
		"#syntax=docker/dockerfile-upstream:master\nFROM scratch":                          false,
		"# syntax=registry.example:5000/mirror/dockerfile:1@" + corpus.Digest + "\nFROM x": true,
		"# syntax=mirror/dockerfile:1\nFROM scratch":                                       false,
		"# comment\n# syntax=x/y\nFROM scratch":                                            false,
		"# syntax=x/y\nFROM scratch":                                                       true,
		"// syntax=x/y\nFROM scratch":                                                      true,
		"# syntax=X Y\nFROM scratch":                                                       true,
	} {
		o.Resolver = images{}
		_, err := dockerfile.Convert(t.Context(), []byte(text), o)
		if (err != nil) != bad {
			t.Errorf("%q: %v", text, err)
		}
	}
	o.BuildArgs = map[string]string{"BUILDKIT_SYNTAX": "x/y:1 --flag"}
	if _, err := dockerfile.Convert(t.Context(), []byte("FROM scratch"), o); errs.KindOf(err) != errs.Unsupported {
		t.Errorf("BUILDKIT_SYNTAX: %v", err)
	}
}

// A line is not longer than the official parser reads.
func TestLongLine(t *testing.T) {
	for n, bad := range map[int]bool{60_000: false, 65_536: true} {
		text := "FROM scratch\nLABEL a=" + strings.Repeat("x", n) + "\n"
		_, err := dockerfile.Convert(t.Context(), []byte(text), dockerfile.Options{Name: "Dockerfile"})
		if (err != nil) != bad || bad && (errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), "line greater than max allowed size of 65535")) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// check returns what the rules say, of the target or of all stages if o names
// none, by line.
func check(ctx context.Context, text []byte, o dockerfile.Options) (found []dockerfile.Warning) {
	o.AllStages = o.Target == ""
	o.Warn = func(w dockerfile.Warning) { found = append(found, w) }
	_, _ = dockerfile.Convert(ctx, text, o) // what is found before a mistake counts
	slices.SortStableFunc(found, func(a, b dockerfile.Warning) int {
		return slices.CompareFunc(a.Lines, b.Lines, func(a, b graph.Range) int { return a.StartLine - b.StartLine })
	})
	return found
}
