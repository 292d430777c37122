package dockerfile

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"cais.dev/cais/pkg/build/graph"
)

// Outline is what a target can be given: build --call=outline.
type Outline struct {
	Name, Description string
	Args              []OutlineArg
	Secrets, SSH      []OutlineMount
}

// OutlineArg is a build argument that the target uses.
type OutlineArg struct {
	Name, Value, Description string
	Lines                    []graph.Range
}

// OutlineMount is a secret or an agent that the target uses.
type OutlineMount struct {
	Name     string
	Required bool
	Lines    []graph.Range
}

// Target is a stage that can be built: build --call=targets.
type Target struct {
	Name, Description, Base, Platform string
	Default                           bool
	Lines                             []graph.Range
}

// outline is what a stage uses.
type outline struct {
	args         map[string]argInfo  // all that are declared
	used         map[string]struct{} // those that the stage names
	secrets, ssh map[string]OutlineMount
}

type argInfo struct {
	def   instructions.KeyValuePairOptional
	value string
	needs map[string]struct{} // other arguments in its default
	lines []parser.Range
}

func newOutline() outline {
	return outline{args: map[string]argInfo{}, used: map[string]struct{}{}, secrets: map[string]OutlineMount{}, ssh: map[string]OutlineMount{}}
}

func (o outline) clone() outline {
	return outline{args: maps.Clone(o.args), used: maps.Clone(o.used), secrets: maps.Clone(o.secrets), ssh: maps.Clone(o.ssh)}
}

func (o outline) addSecret(id string, required bool, at []parser.Range) {
	note(o.secrets, id, required, at)
}

func (o outline) addSSH(id string, required bool, at []parser.Range) { note(o.ssh, id, required, at) }

func note(m map[string]OutlineMount, id string, required bool, at []parser.Range) {
	if _, ok := m[id]; !ok {
		m[id] = OutlineMount{Name: id, Required: required, Lines: toRanges(at)}
	}
}

// needed adds the arguments that defaults of used ones name.
func (o outline) needed() {
	todo := slices.Collect(maps.Keys(o.used))
	for len(todo) > 0 {
		k := todo[0]
		todo = todo[1:]
		for n := range o.args[k].needs {
			if _, ok := o.used[n]; !ok {
				o.used[n] = struct{}{}
				todo = append(todo, n)
			}
		}
	}
}

// Describe returns what the target of opts can be given.
func Describe(ctx context.Context, text []byte, opts Options) (Outline, error) {
	src := graph.Source{Name: opts.Name, Data: text}
	target := opts.Build
	if len(opts.Platforms) > 0 {
		target = opts.Platforms[0]
	}
	c, err := newConverter(ctx, text, opts, target, &graph.Builder{})
	if err != nil {
		return Outline{}, located(src, err)
	}
	s, err := c.dispatch(ctx)
	if err != nil {
		return Outline{}, located(src, err)
	}
	out := Outline{Name: s.def.Name, Description: s.def.DocComment}
	args, secrets, ssh := map[string]bool{}, map[string]bool{}, map[string]bool{}
	take := func(seen map[string]bool, from map[string]OutlineMount, to *[]OutlineMount) {
		for k, m := range from {
			if !seen[k] {
				seen[k] = true
				*to = append(*to, m)
			}
		}
	}
	for _, s := range s.order(nil) {
		s.outline.needed()
		for k := range s.outline.used {
			if a, ok := s.outline.args[k]; ok && !args[k] {
				args[k] = true
				out.Args = append(out.Args, OutlineArg{a.def.Key, a.value, a.def.DocComment, toRanges(a.lines)})
			}
		}
		take(secrets, s.outline.secrets, &out.Secrets)
		take(ssh, s.outline.ssh, &out.SSH)
	}
	slices.SortFunc(out.Args, func(a, b OutlineArg) int {
		return cmp.Or(cmp.Compare(first(a.Lines), first(b.Lines)), cmp.Compare(a.Name, b.Name))
	})
	for _, l := range [][]OutlineMount{out.Secrets, out.SSH} {
		slices.SortFunc(l, func(a, b OutlineMount) int {
			return cmp.Or(cmp.Compare(first(a.Lines), first(b.Lines)), cmp.Compare(a.Name, b.Name))
		})
	}
	return out, nil
}

func first(lines []graph.Range) int {
	if len(lines) == 0 {
		return 0
	}
	return lines[0].StartLine
}

// order lists s and the stages that it needs, nearest first.
func (s *stage) order(seen []*stage) []*stage {
	if slices.Contains(seen, s) {
		return seen
	}
	seen = append(seen, s)
	if s.base != nil {
		seen = s.base.order(seen)
	}
	for _, n := range s.needs {
		seen = n.order(seen)
	}
	return seen
}

// Targets lists the stages of a Dockerfile. It asks no Resolver.
func Targets(text []byte, name string) ([]Target, error) {
	src := graph.Source{Name: name, Data: text}
	if err := checkSyntax(text, ""); err != nil {
		return nil, located(src, err)
	}
	tree, err := parser.Parse(bytes.NewReader(text))
	if err != nil {
		return nil, located(src, err)
	}
	stages, _, err := instructions.Parse(tree.AST, linter.New(&linter.Config{}))
	if err != nil {
		return nil, located(src, err)
	}
	var list []Target
	for i, s := range stages {
		list = append(list, Target{
			Name: s.Name, Description: s.DocComment, Base: s.BaseName, Platform: s.Platform,
			Default: i == len(stages)-1, Lines: toRanges(s.Location),
		})
	}
	return list, nil
}
