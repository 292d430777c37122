package dockerfile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/golden"
)

// fake has base images by name; others are not there.
type fake map[string]oci.Image

func (f fake) Resolve(_ context.Context, img Image) (Base, error) {
	ref, _ := oci.Parse(img.Ref)
	cfg, ok := f[ref.FamiliarName()]
	if !ok {
		return Base{}, errs.New(errs.NotFound, "not found")
	}
	cfg.Platform = img.Platform
	return Base{Digest: "sha256:" + strings.Repeat("1", 64), Config: cfg}, nil
}

func bases() fake {
	layer := oci.RootFS{Type: "layers", DiffIDs: []string{"sha256:" + strings.Repeat("a", 64)}}
	return fake{
		"debian": {RootFS: layer, Config: oci.Config{Env: []string{"PATH=/usr/bin:/bin"}, Cmd: []string{"bash"}}, History: []oci.History{{CreatedBy: "debootstrap"}}},
		"onbuild": {RootFS: layer, Config: oci.Config{
			OnBuild: []string{"COPY --from=tools /t /t", "RUN echo $X"}, Env: []string{"X=1"}, User: "app", WorkingDir: "/srv",
		}},
		"nothing": {},
	}
}

func linux() oci.Platform { return oci.Platform{OS: "linux", Architecture: "amd64"} }

func convert(t *testing.T, text string, opts Options) (*Plan, error) {
	t.Helper()
	opts.Name, opts.Build = "Dockerfile", linux()
	if opts.Resolver == nil {
		opts.Resolver = bases()
	}
	return Convert(context.Background(), []byte(text), opts)
}

// dump lists a graph, a line for each node.
func dump(g *graph.Graph) string {
	var b strings.Builder
	for i, n := range g.Nodes {
		op, _ := json.Marshal(n.Op)
		fmt.Fprintf(&b, "%d %s %s %s\n", i, n.Name, strings.TrimPrefix(fmt.Sprintf("%T", n.Op), "*graph."), op)
	}
	for _, r := range g.Results {
		cfg, _ := json.Marshal(r.Config.Config)
		fmt.Fprintf(&b, "result %d base %d layers %v %s\n", r.Node, r.Base, r.Layers, cfg)
		for _, h := range r.Config.History[r.BaseHistory:] {
			fmt.Fprintf(&b, "  %v %s\n", h.EmptyLayer, h.CreatedBy)
		}
	}
	return b.String()
}

func TestPlan(t *testing.T) {
	var b strings.Builder
	for _, text := range []string{`# syntax=docker/dockerfile:1
ARG V=1
FROM debian AS build
ARG V
ARG Q=$V-x
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/c --mount=from=debian,target=/d make $V
RUN <<EOF
#!/bin/x
hi
EOF
FROM scratch
COPY --from=build --link /src/a /b/
ADD https://x.y/z.tar <<F /q/
hello $V
F
EXPOSE 80 90-91/UDP
HEALTHCHECK CMD x
ENTRYPOINT ["/a"]
`,
		"FROM debian AS tools\nFROM onbuild\nUSER x\n",
	} {
		p, err := convert(t, text, Options{})
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(text + "----\n" + dump(p.Graph) + "\n")
	}
	golden.Text(t, "testdata/plan.txt", b.String())
}

func TestErrors(t *testing.T) {
	var b strings.Builder
	for _, text := range []string{
		"FROMM x",
		"FROM debian\nRUN --mout=type=bind x",
		"FROM debian\nCOPY --from=x",
		"FROM debain",
		"FROM scratch as a\nCOPY --from=b x y\nFROM a as b\nCOPY --from=a x y",
		"FROM debian\nRUN --mount=type=tmpfs,taget=/x y",
	} {
		_, err := convert(t, text, Options{})
		at, ok := errors.AsType[*Error](err)
		if !ok {
			t.Errorf("%q: %v, want an Error with a place", text, err)
			continue
		}
		if errs.KindOf(err) == errs.Internal {
			t.Errorf("%q: %v has no kind", text, err)
		}
		fmt.Fprintf(&b, "%s\n%v\n%s\n", text, err, at.Excerpt())
	}
	golden.Text(t, "testdata/errors.txt", b.String())
}
