// Package fidelity compares cais's Dockerfiles with BuildKit's, node by node: the
// converter that buildkitd uses is asked about the same texts.
package fidelity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"sort"
	"strings"
	"testing"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	gwclient "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	fstypes "github.com/tonistiigi/fsutil/types"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/test/corpus"
)

// images answers both sides.
type images map[string]oci.Image

func (im images) find(ref string) (oci.Image, bool) {
	r, err := oci.Parse(ref)
	if err != nil {
		return oci.Image{}, false
	}
	img, ok := im[r.FamiliarName()]
	if !ok && !strings.HasPrefix(r.Path, "library/buss") && !strings.HasPrefix(r.Path, "library/missing") {
		return im["busybox"], true
	}
	return img, ok
}

// Resolve is asked by cais.
func (im images) Resolve(_ context.Context, img dockerfile.Image) (dockerfile.Base, error) {
	cfg, ok := im.find(img.Ref)
	if !ok {
		return dockerfile.Base{}, errors.New("not found")
	}
	if cfg.Architecture == "" {
		cfg.Platform = img.Platform
	}
	return dockerfile.Base{Digest: corpus.Digest, Config: cfg}, nil
}

// gateway is what BuildKit's front end believes to be buildkitd.
type gateway struct {
	gwclient.Client
	opts   map[string]string
	images images
	c      corpus.Case
}

func (g *gateway) BuildOpts() gwclient.BuildOpts {
	amd64 := ocispecs.Platform{OS: "linux", Architecture: "amd64"}
	return gwclient.BuildOpts{
		Opts: g.opts, LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gwpb.Caps.CapSet(gwpb.Caps.All()),
		Workers: []gwclient.WorkerInfo{{Platforms: []ocispecs.Platform{amd64}}},
	}
}

func (g *gateway) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

func (g *gateway) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	img, ok := g.images.find(ref)
	if !ok {
		return "", "", nil, errors.New("not found")
	}
	if img.Architecture == "" && opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		p := *opt.ImageOpt.Platform
		img.Platform = oci.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
	}
	data, err := json.Marshal(img)
	return ref, corpus.Digest, data, err
}

// Solve is asked for ignore files alone.
func (g *gateway) Solve(_ context.Context, req gwclient.SolveRequest) (*gwclient.Result, error) {
	res := gwclient.NewResult()
	all := maps.Clone(g.c.Files)
	if all == nil {
		all = map[string][]byte{}
	}
	all["Dockerfile"] = g.c.Dockerfile
	res.SetRef(ignoreFiles(all))
	return res, nil
}

// ignoreFiles are those of a case.
type ignoreFiles map[string][]byte

func (f ignoreFiles) find(name string) ([]byte, error) {
	for _, n := range []string{name, "context/" + name} {
		if data, ok := f[n]; ok && (strings.HasSuffix(name, ".dockerignore") || n == "Dockerfile") {
			return data, nil
		}
	}
	return nil, cerrdefs.ErrNotFound
}

func (f ignoreFiles) ReadFile(_ context.Context, req gwclient.ReadRequest) ([]byte, error) {
	return f.find(req.Filename)
}

func (f ignoreFiles) StatFile(_ context.Context, req gwclient.StatRequest) (*fstypes.Stat, error) {
	data, err := f.find(req.Path)
	return &fstypes.Stat{Size: int64(len(data))}, err
}

func (f ignoreFiles) ReadDir(context.Context, gwclient.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, cerrdefs.ErrNotFound
}

func (f ignoreFiles) Evaluate(context.Context) error { return nil }

func (f ignoreFiles) ToState() (llb.State, error) { return llb.Scratch(), nil }

// outcome is what one side makes of a case.
type outcome struct {
	err      string
	graphs   []*canon
	configs  []map[string]any
	warnings []string
}

func plain(img any) map[string]any {
	data, err := json.Marshal(img)
	if err != nil {
		panic(err)
	}
	m := map[string]any{}
	if err := json.Unmarshal(data, &m); err != nil {
		panic(err)
	}
	delete(m, "rootfs")
	delete(m, "created") // the exporter's, there
	if h, ok := m["history"].([]any); ok {
		// BuildKit's exporter adds what is missing, as "FROM" of a context.
		h = slices.DeleteFunc(h, func(e any) bool {
			line, _ := e.(map[string]any)["created_by"].(string)
			return strings.HasPrefix(line, "FROM ")
		})
		m["history"] = h
		for _, e := range h {
			if e := e.(map[string]any); e["created"] == "0001-01-01T00:00:00Z" {
				delete(e, "created")
			}
		}
		if len(h) == 0 {
			delete(m, "history")
		}
	}
	return m
}

func location(lines [][2]int) string {
	sort.Slice(lines, func(i, j int) bool { return lines[i][0] < lines[j][0] })
	return fmt.Sprint(lines)
}

func caisOf(c corpus.Case, o dockerfile.Options) (out outcome) {
	o.Resolver = images(corpus.Images())
	o.Warn = func(w dockerfile.Warning) {
		var at [][2]int
		for _, r := range w.Lines {
			at = append(at, [2]int{r.StartLine, r.EndLine})
		}
		out.warnings = append(out.warnings, fmt.Sprintf("%s %s %s", w.Rule, w.Message, location(at)))
	}
	p, err := dockerfile.Convert(context.Background(), c.Dockerfile, o)
	if err != nil {
		out.err = err.Error()
		return out
	}
	for _, r := range p.Graph.Results {
		out.graphs = append(out.graphs, ours(p.Graph, r))
		out.configs = append(out.configs, plain(r.Config))
	}
	return out
}

func buildkitOf(c corpus.Case, o dockerfile.Options) (out outcome, err error) {
	opts := map[string]string{"target": o.Target}
	for k, v := range o.BuildArgs {
		opts["build-arg:"+k] = v
	}
	for k, v := range o.Labels {
		opts["label:"+k] = v
	}
	for k, v := range o.Contexts {
		if !strings.Contains(v, "://") {
			v = "local:" + k
		}
		opts["context:"+k] = v
	}
	if o.NoCache {
		opts["no-cache"] = ""
	}
	if len(o.NoCacheStages) > 0 {
		opts["no-cache"] = strings.Join(o.NoCacheStages, ",")
	}
	if o.Network != "" {
		opts["force-network-mode"] = string(o.Network)
	}
	if o.ShmSize > 0 {
		opts["shm-size"] = fmt.Sprint(o.ShmSize)
	}
	var hosts, limits []string
	for _, h := range o.Hosts {
		hosts = append(hosts, h.Name+"="+h.IP)
	}
	for _, u := range o.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	opts["add-hosts"], opts["ulimit"] = strings.Join(hosts, ","), strings.Join(limits, ",")
	var platforms []string
	for _, p := range o.Platforms {
		platforms = append(platforms, p.String())
	}
	opts["platform"] = strings.Join(platforms, ",")

	bc, err := dockerui.NewClient(&gateway{opts: opts, images: corpus.Images(), c: c})
	if err != nil {
		return out, err
	}
	if _, err := bc.ReadEntrypoint(context.Background(), "Dockerfile"); err != nil {
		return out, err
	}
	targets := []*ocispecs.Platform{nil}
	if len(bc.TargetPlatforms) > 0 {
		targets = nil
		for _, p := range bc.TargetPlatforms {
			targets = append(targets, &p)
		}
	}
	for i, p := range targets {
		opt := dockerfile2llb.ConvertOpt{
			Config: bc.Config, Client: bc, MetaResolver: &gateway{images: corpus.Images(), c: c}, TargetPlatform: p,
			SourceMap: llb.NewSourceMap(nil, "Dockerfile", "Dockerfile", c.Dockerfile),
		}
		if i == 0 {
			opt.Warn = func(rule, _, _, msg string, at []parser.Range) {
				var lines [][2]int
				for _, r := range at {
					lines = append(lines, [2]int{r.Start.Line, r.End.Line})
				}
				out.warnings = append(out.warnings, fmt.Sprintf("%s %s %s", rule, msg, location(lines)))
			}
		}
		res, err := dockerfile2llb.Dockerfile2LLB(context.Background(), c.Dockerfile, opt)
		if err != nil {
			out.err = err.Error()
			return out, nil
		}
		def, err := res.State.Marshal(context.Background())
		if err != nil {
			out.err = err.Error()
			return out, nil
		}
		g, err := theirs(def)
		if err != nil {
			return out, err
		}
		out.graphs = append(out.graphs, g)
		out.configs = append(out.configs, plain(res.Image))
	}
	return out, nil
}

// compare returns what differs, a line for each.
func compare(c corpus.Case, o dockerfile.Options) string {
	a := caisOf(c, o)
	b, err := buildkitOf(c, o)
	if err != nil {
		return "buildkit: " + err.Error()
	}
	var diff []string
	// Of several mistakes each side tells the one that it meets first.
	if strict := c.Name != "mixed"; (a.err == "") != (b.err == "") || strict && messages(byChance.ReplaceAllString(a.err, "")) != messages(byChance.ReplaceAllString(b.err, "")) {
		diff = append(diff, fmt.Sprintf("  error: %q\n theirs: %q", a.err, b.err))
	}
	if a.err == "" && b.err == "" {
		for i := range a.graphs {
			if d := differ(a.graphs[i], b.graphs[i]); d != "" {
				diff = append(diff, d)
			}
			if !reflect.DeepEqual(a.configs[i], b.configs[i]) {
				x, _ := json.MarshalIndent(a.configs[i], "  ", " ")
				y, _ := json.MarshalIndent(b.configs[i], "  ", " ")
				diff = append(diff, fmt.Sprintf("  config: %s\n  theirs: %s", x, y))
			}
		}
	}
	for _, l := range [][]string{a.warnings, b.warnings} {
		for i, w := range l {
			l[i] = byChance.ReplaceAllString(w, "")
		}
		slices.Sort(l)
	}
	if c.Name == "mixed" && a.err != "" {
		return strings.Join(diff, "\n") // they stop at different places
	}
	if !slices.Equal(a.warnings, b.warnings) {
		for _, w := range a.warnings {
			if !slices.Contains(b.warnings, w) {
				diff = append(diff, "  warning:        "+w)
			}
		}
		for _, w := range b.warnings {
			if !slices.Contains(a.warnings, w) {
				diff = append(diff, "  warning theirs: "+w)
			}
		}
	}
	return strings.Join(diff, "\n")
}

// messages puts an error into the words that both sides have.
func messages(s string) string {
	for _, k := range words {
		if k.theirs.MatchString(s) {
			return k.ours
		}
		if strings.Contains(s, k.ours) {
			return k.ours
		}
	}
	return s
}

// words are the errors that cais says in others: theirs are of libraries that it
// does not use, or say less.
var words = []struct {
	ours   string
	theirs *regexp.Regexp
}{
	{"invalid checksum digest length", regexp.MustCompile("invalid checksum digest length")},
	{"invalid checksum digest format", regexp.MustCompile("invalid checksum digest format")},
	{"unexpected query", regexp.MustCompile("unexpected query")},
	{"failed to parse platform", regexp.MustCompile("cannot parse platform specifier|unknown operating system or architecture|cannot normalize platform")},
	{"invalid chmod parameter", regexp.MustCompile("^invalid syntax$")},
	{"failed to parse stage name", regexp.MustCompile("failed to parse stage name")},
}

// reported are lines that legitimately differ from run to run: the parser
// chooses among equally near words by chance.
var byChance = regexp.MustCompile(` \(did you mean [^)]*\)`)

func TestCorpus(t *testing.T) {
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name, func(t *testing.T) {
			o, err := c.Options(os.Getenv)
			if err != nil {
				t.Fatal(err)
			}
			if d := compare(c, o); d != "" {
				t.Errorf("%s", d)
			}
		})
	}
}

// The parser's own test files, good and bad.
func TestParserFiles(t *testing.T) {
	dir := filepath.Join(module(t), "frontend/dockerfile")
	var texts []string
	for _, p := range []string{"parser/testfiles/*/Dockerfile", "parser/testfiles-negative/*/Dockerfile", "../../Dockerfile", "../../hack/dockerfiles/*.Dockerfile", "../../frontend/dockerfile/cmd/*/Dockerfile"} {
		found, err := filepath.Glob(filepath.Join(dir, p))
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, found...)
	}
	if len(texts) < 20 {
		t.Fatalf("%d files", len(texts))
	}
	for _, f := range texts {
		t.Run(filepath.Base(filepath.Dir(f))+"/"+filepath.Base(f), func(t *testing.T) {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			c := corpus.Case{Name: f, Dockerfile: data}
			o, _ := c.Options(os.Getenv)
			if d := compare(c, o); d != "" {
				t.Errorf("%s", d)
			}
		})
	}
}

// Lines of the corpus, mixed: whatever comes out, both sides agree.
func TestMixed(t *testing.T) {
	cases, err := corpus.Load()
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range cases {
		if bytes.Contains(c.Dockerfile, []byte("<<")) || bytes.HasPrefix(c.Dockerfile, []byte("# escape")) {
			continue
		}
		text := strings.ReplaceAll(string(c.Dockerfile), "\\\n", " ")
		for l := range strings.SplitSeq(text, "\n") {
			// A stage called scratch takes the place of RUN --mount's empty source, there.
			if l = strings.TrimSpace(l); l != "" && !strings.Contains(l, "AS scratch") && !strings.HasPrefix(l, "#") && !strings.HasSuffix(l, "\\") {
				lines = append(lines, l)
			}
		}
	}
	n := 2000
	if testing.Short() {
		n = 200
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	bad := 0
	for i := range n {
		var b strings.Builder
		if rnd.IntN(3) == 0 {
			b.WriteString("ARG X=busybox Y=1\n")
		}
		b.WriteString("FROM busybox AS base\n")
		for range 1 + rnd.IntN(12) {
			l := lines[rnd.IntN(len(lines))]
			switch rnd.IntN(20) {
			case 0:
				l = "ONBUILD " + l
			case 1: // one letter is another
				k := rnd.IntN(len(l))
				l = l[:k] + string("$ab{}:=-/ \"'#,"[rnd.IntN(14)]) + l[k+1:]
			case 2:
				l = "FROM base AS s" + string('a'+byte(rnd.IntN(3)))
			}
			b.WriteString(l + "\n")
		}
		c := corpus.Case{Name: "mixed", Dockerfile: []byte(b.String())}
		o, _ := c.Options(os.Getenv)
		if d := compare(c, o); d != "" {
			t.Errorf("mixed %d:\n%s\n%s", i, b.String(), d)
			if bad++; bad > 20 {
				t.FailNow()
			}
		}
	}
}

// module is where the parser's own test files are.
func module(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(os.Getenv("HOME"), "go/pkg/mod/github.com/moby/buildkit@v0.33.1"))
	if err != nil || len(dirs) == 0 {
		t.Skip("the module's source is not in the cache")
	}
	return dirs[0]
}
