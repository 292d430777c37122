package dockerfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

// converter is one conversion: a text for one platform.
type converter struct {
	opts   Options
	target oci.Platform

	file    []instructions.Stage
	lex     *shell.Lex
	lint    *linter.Linter
	globals environ
	proxy   []string
	epoch   *time.Time

	stages []*stage          // in order; those that only stand for an image at the end
	byName map[string]*stage // lower case

	outline outline
	used    map[string]bool // build arguments that something asked for

	b       *graph.Builder
	context graph.ID // the build context, once something needs it
}

// newConverter reads the text and what stands before the first FROM.
func newConverter(ctx context.Context, text []byte, opts Options, target oci.Platform, b *graph.Builder) (*converter, error) {
	if len(bytes.TrimSpace(text)) == 0 {
		return nil, errors.New("the Dockerfile cannot be empty")
	}
	c := &converter{
		opts: opts, target: target.Normalize(), b: b, context: graph.None,
		byName: map[string]*stage{}, used: map[string]bool{}, outline: newOutline(), proxy: proxyEnv(opts.BuildArgs),
	}
	err := checkSyntax(text, opts.BuildArgs["BUILDKIT_SYNTAX"])
	if err != nil {
		return nil, err
	}
	if c.lint, err = newLinter(text, opts); err != nil {
		return nil, err
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, w := range tree.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL && w.Location != nil {
			c.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, linter.RuleNoEmptyContinuation.Format())
		}
	}
	var args []instructions.ArgCommand
	if c.file, args, err = instructions.Parse(tree.AST, c.lint); err != nil {
		return nil, err
	}
	if len(c.file) == 0 {
		return nil, errors.New("dockerfile contains no stages to build")
	}
	lintStageNames(c.file, c.lint)
	lintCasing(c.file, c.lint)

	last := opts.Target
	if last == "" {
		last = c.file[len(c.file)-1].Name
	}
	c.lex = shell.NewLex(tree.EscapeToken)
	c.globals = platformArgs(opts.Build.Normalize(), c.target, last, opts.BuildArgs)
	lintDefaultBases(c.file, c.lex, c.globals, args, c.lint)
	if c.globals, c.outline.args, err = globalArgs(c.globals, c.lex, args, opts.BuildArgs); err != nil {
		return nil, err
	}
	for _, cmd := range args {
		for _, a := range cmd.Args {
			c.used[a.Key] = true
		}
	}
	if err := c.readEpoch(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// convert makes the nodes of the target.
func (c *converter) convert(ctx context.Context) (graph.Result, error) {
	target, err := c.dispatch(ctx)
	if err != nil {
		return graph.Result{}, err
	}
	return c.result(target), nil
}

// dispatch carries all out but the result.
func (c *converter) dispatch(ctx context.Context) (*stage, error) {
	if err := c.makeStages(); err != nil {
		return nil, err
	}
	target, err := c.findTarget()
	if err != nil {
		return nil, err
	}
	if err := c.linkStages(); err != nil {
		return nil, err
	}
	needed, err := c.resolve(ctx, target)
	if err != nil {
		return nil, err
	}
	// Stages that stand for images have no commands; the order is the file's.
	for _, s := range c.stages {
		if s.done || !needed[s] && !c.opts.AllStages {
			continue
		}
		if err := c.dispatchStage(s); err != nil {
			return nil, err
		}
	}
	if err := c.lint.Error(); err != nil {
		return nil, &Error{Err: err} // of no line: it counts the findings, which have theirs
	}
	return target, nil
}

// findTarget returns the stage that is asked for.
func (c *converter) findTarget() (*stage, error) {
	if c.opts.Target == "" {
		return c.stages[len(c.file)-1], nil
	}
	if s, ok := c.find(c.opts.Target); ok {
		return s, nil
	}
	// As for COPY --from, a number is a stage's.
	if n, err := strconv.Atoi(c.opts.Target); err == nil && n >= 0 && n < len(c.file) {
		return c.stages[n], nil
	}
	return nil, suggest.WrapError(fmt.Errorf("target stage %q could not be found", c.opts.Target), c.opts.Target, c.names(), true)
}

// result is what the executor needs to make an image of s.
func (c *converter) result(s *stage) graph.Result {
	c.root(s)
	img := cloneImage(s.image)
	if len(c.opts.Labels) > 0 && img.Config.Labels == nil {
		img.Config.Labels = map[string]string{}
	}
	for k, v := range c.opts.Labels {
		img.Config.Labels[k] = v
	}
	for _, k := range c.opts.UnsetLabels {
		delete(img.Config.Labels, k)
	}
	for _, k := range c.opts.UnsetEnv {
		img.Config.Env = environ(img.Config.Env).without(k)
	}
	if len(c.opts.Platforms) > 0 {
		same := img.OS == c.target.OS && img.Architecture == c.target.Architecture
		img.OS, img.Architecture = c.target.OS, c.target.Architecture
		if c.target.Variant != "" || !same {
			img.Variant = c.target.Variant
		}
		if c.target.OSVersion != "" || !same {
			img.OSVersion = c.target.OSVersion
		}
	}
	img.Platform = img.Platform.Normalize()
	r := graph.Result{
		Platform: c.target, Node: s.node, Base: s.bottom, Layers: s.layers,
		Config: img, BaseHistory: s.baseHistory, Epoch: c.epoch,
	}
	r.Config.Created = time.Time{} // not when the base was made
	if c.epoch != nil {
		r.Config.Created = *c.epoch
	}
	return r
}

// contextNode is the build context's.
func (c *converter) contextNode() graph.ID {
	if c.context == graph.None {
		c.context = c.b.Add(graph.Node{Op: &graph.Local{Name: "context"}, Name: "[internal] load build context"})
	}
	return c.context
}

// checkSyntax refuses a front end that is not Docker's own: an image would have
// to be pulled and run to read the text, and what it says is anybody's.
func checkSyntax(text []byte, given string) error {
	name, at := strings.TrimSpace(given), []parser.Range(nil)
	if name == "" {
		name, _, at, _ = parser.DetectSyntax(text)
	}
	name, _, _ = strings.Cut(name, " ")
	if name == "" {
		return nil
	}
	ref, err := oci.Parse(name)
	if err == nil && strings.HasPrefix(path.Base(ref.Path), "dockerfile") {
		return nil
	}
	err = errs.WithHint(errs.New(errs.Unsupported, fmt.Sprintf("the syntax %s is not supported: cais reads Dockerfiles, as docker/dockerfile does", name)),
		"Remove the line, or build with the front end's own BuildKit.")
	if at == nil {
		return err
	}
	return parser.WithLocation(err, at)
}
