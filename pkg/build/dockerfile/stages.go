package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/oci"
)

const (
	scratch     = "scratch"
	defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// stage is a stage of the file, or the image that COPY --from or RUN --mount=from
// name.
type stage struct {
	def      instructions.Stage
	name     string // shown: its name, or "stage-2"; empty if it is the only one
	image    oci.Image
	base     *stage // if it is FROM another stage
	needs    []need // stages that its commands read
	commands []command
	context  string // the named context that its files come from
	replaced bool   // by the named context of its own name: its commands do not count
	foreign  bool   // an image or a context, no stage of the file
	noCache  bool

	platform    *oci.Platform
	resolved    bool // its image is known, or not wanted
	triggered   bool // its ONBUILD commands are there
	done        bool // its nodes are there
	node        graph.ID
	bottom      graph.ID // the image under it, None for scratch
	layers      []graph.ID
	baseHistory int

	env        environ // what commands see: the image's and ARGs
	cwd, user  string
	args       []instructions.KeyValuePairOptional
	workdirSet bool

	cmdSet                                  bool
	cmdLines, entrypointLines, healthyLines []parser.Range // of the last one, for the lint rule

	steps, step int  // of the progress view, how many and which
	onbuild     bool // the command in hand came by ONBUILD
	outline     outline
}

// need is a stage that a command reads.
type need struct {
	*stage
	cmd instructions.Command
}

// command is an instruction with the stages that it names.
type command struct {
	instructions.Command
	from    []*stage // COPY: one or none; RUN: one for each mount
	onbuild bool
}

// makeStages reads the FROM lines.
func (c *converter) makeStages() error {
	for i, def := range c.file {
		s, err := c.makeStage(i, def)
		if err != nil {
			return err
		}
		c.add(s)
		if s.replaced {
			s.base = nil
			continue
		}
		if s.def.BaseName != scratch && s.base == nil {
			s.steps = 1
		}
		for _, cmd := range def.Commands {
			switch cmd.(type) {
			case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
				s.steps++
			}
		}
	}
	return nil
}

func (c *converter) makeStage(i int, def instructions.Stage) (*stage, error) {
	lint := c.lint.WithMergedConfigFromComments(def.Comments)
	if i == 0 && c.opts.From != "" {
		def.BaseName = c.opts.From
	}
	known := keySet(c.globals.Keys())
	for k := range c.outline.args {
		known[k] = struct{}{}
	}
	name, err := c.lex.ProcessWordWithMatches(def.BaseName, c.globals)
	lintFromArgs(known, name.Unmatched, def.Location, lint)
	if err != nil {
		return nil, parser.WithLocation(err, def.Location)
	}
	if name.Result == "" {
		return nil, parser.WithLocation(fmt.Errorf("base name (%s) should not be blank", def.BaseName), def.Location)
	}
	def.BaseName = name.Result
	s := &stage{
		def: def, name: def.Name, node: graph.None, bottom: graph.None, outline: c.outline.clone(),
		noCache: c.opts.NoCache || slices.ContainsFunc(c.opts.NoCacheStages, func(n string) bool { return strings.EqualFold(n, def.Name) }),
	}
	for k := range name.Matched {
		s.outline.used[k] = struct{}{}
	}
	if def.Platform != "" {
		if err := c.stagePlatform(s, known, lint); err != nil {
			return nil, parser.WithLocation(err, def.Location)
		}
	}
	if s.name == "" {
		s.name = fmt.Sprintf("stage-%d", i)
	} else {
		s.context = c.namedContext(def.Name, s.platform)
		s.replaced = s.context != ""
	}
	return s, nil
}

// stagePlatform reads FROM --platform.
func (c *converter) stagePlatform(s *stage, known map[string]struct{}, lint *linter.Linter) error {
	v := s.def.Platform
	word, err := c.lex.ProcessWordWithMatches(v, c.globals)
	lintFromArgs(known, word.Unmatched, s.def.Location, lint)
	lintPlatform(s.def, word, c.globals, lint)
	switch {
	case err != nil:
		return fmt.Errorf("failed to process arguments for platform %s: %w", word.Result, err)
	case word.Result == "":
		return suggestAny(fmt.Errorf("empty platform value from expression %s", v), word.Unmatched, c.globals.Keys())
	}
	p, err := oci.ParsePlatform(word.Result, c.opts.Build)
	if err != nil {
		return fmt.Errorf("failed to parse platform %s: %w", v, suggestAny(err, word.Unmatched, c.globals.Keys()))
	}
	for k := range word.Matched {
		s.outline.used[k] = struct{}{}
	}
	s.platform = &p
	return nil
}

// add puts s behind the others. A stage is FROM another only if that is above it.
func (c *converter) add(s *stage) {
	c.stages = append(c.stages, s)
	if b, ok := c.byName[s.def.BaseName]; ok {
		used := s.outline.used
		s.base, s.outline = b, b.outline.clone()
		for k := range used {
			s.outline.used[k] = struct{}{}
		}
	}
	if s.def.Name != "" {
		c.byName[strings.ToLower(s.def.Name)] = s
	}
}

func (c *converter) find(name string) (*stage, bool) {
	s, ok := c.byName[strings.ToLower(name)]
	return s, ok
}

// names are those of the file's stages.
func (c *converter) names() []string {
	var names []string
	for _, s := range c.stages {
		if s.name != "" {
			names = append(names, s.name)
		}
	}
	return names
}

// namedContext returns what the name means if it is a --build-context's.
func (c *converter) namedContext(name string, platform *oci.Platform) string {
	if len(c.opts.Contexts) == 0 || strings.EqualFold(name, scratch) || strings.EqualFold(name, "context") {
		return ""
	}
	if ref, err := oci.Parse(name); err == nil {
		name = strings.TrimSuffix(ref.Familiar(), ":latest")
	}
	if platform == nil {
		platform = &c.target
	}
	if v, ok := c.opts.Contexts[name+"::"+platform.String()]; ok {
		return contextValue(name, v)
	}
	if v, ok := c.opts.Contexts[name]; ok {
		return contextValue(name, v)
	}
	return ""
}

// contextValue is "docker-image://…", "oci-layout://…" or "local:" and the name.
func contextValue(name, v string) string {
	if strings.HasPrefix(v, "docker-image://") || strings.HasPrefix(v, "oci-layout://") {
		return v
	}
	return "local:" + name
}

// linkStages finds the stages that commands name.
func (c *converter) linkStages() error {
	for _, s := range slices.Clone(c.stages) {
		if s.replaced {
			continue
		}
		for _, ic := range s.def.Commands {
			cmd, err := c.command(ic)
			if err != nil {
				return err
			}
			s.take(c, cmd)
			s.commands = append(s.commands, cmd)
		}
	}
	if err := noCircle(c.stages); err != nil {
		return err
	}
	if len(c.stages) == 1 {
		c.stages[0].name = ""
	}
	return nil
}

// take notes what cmd needs.
func (s *stage) take(c *converter, cmd command) {
	for _, from := range cmd.from {
		if from == nil {
			continue
		}
		s.needs = append(s.needs, need{from, cmd.Command})
		if from.foreign && !slices.Contains(c.stages, from) {
			c.add(from)
		}
	}
}

func foreign(name string, at []parser.Range) *stage {
	return &stage{
		def: instructions.Stage{BaseName: name, Location: at}, foreign: true,
		node: graph.None, bottom: graph.None, outline: newOutline(),
	}
}

// command finds the stages that ic names.
func (c *converter) command(ic instructions.Command) (command, error) {
	cmd := command{Command: ic}
	switch ic := ic.(type) {
	case *instructions.CopyCommand:
		if ic.From == "" {
			break
		}
		word, err := c.lex.ProcessWordWithMatches(ic.From, shell.EnvsFromSlice(nil))
		if err != nil {
			return cmd, parser.WithLocation(err, ic.Location())
		}
		if word.Result != ic.From {
			return cmd, parser.WithLocation(errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround"), ic.Location())
		}
		from, ok := c.find(ic.From)
		if n, err := strconv.Atoi(ic.From); err == nil {
			if n < 0 || n >= len(c.file) {
				return cmd, parser.WithLocation(fmt.Errorf("invalid stage index %d", n), ic.Location())
			}
			from = c.stages[n]
		} else if !ok {
			from = foreign(ic.From, ic.Location())
		}
		cmd.from = []*stage{from}
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(ic) {
			if m.From == "" {
				cmd.from = append(cmd.from, nil)
				continue
			}
			from, ok := c.find(m.From)
			if !ok {
				from = foreign(m.From, ic.Location())
			}
			cmd.from = append(cmd.from, from)
		}
	}
	return cmd, nil
}

// noCircle refuses stages that need themselves.
func noCircle(stages []*stage) error {
	const under, clear = 1, 2
	state := map[*stage]int{}
	var path []instructions.Command // that led to the stage in hand
	var visit func(s *stage) error
	visit = func(s *stage) error {
		state[s] = under
		for _, n := range s.needs {
			path = append(path, n.cmd)
			switch state[n.stage] {
			case under:
				err := fmt.Errorf("circular dependency detected on stage: %s", n.name)
				for _, cmd := range path {
					err = parser.WithLocation(err, cmd.Location())
				}
				return err
			case 0:
				if err := visit(n.stage); err != nil {
					return err
				}
			}
			path = path[:len(path)-1]
		}
		state[s] = clear
		return nil
	}
	for _, s := range stages {
		if state[s] == 0 {
			if err := visit(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// reach returns the stages that s needs, with itself.
func (s *stage) reach(seen map[*stage]bool) map[*stage]bool {
	if seen == nil {
		seen = map[*stage]bool{}
	}
	if seen[s] {
		return seen
	}
	seen[s] = true
	if s.base != nil {
		s.base.reach(seen)
	}
	for _, n := range s.needs {
		n.reach(seen)
	}
	return seen
}

// resolve asks for the images of all stages that target needs, and adds what
// their ONBUILD says, until that names no new stages.
func (c *converter) resolve(ctx context.Context, target *stage) (map[*stage]bool, error) {
	for {
		needed := target.reach(nil)
		if err := c.resolveImages(ctx, needed); err != nil {
			return nil, err
		}
		again := false
		for _, s := range slices.Clone(c.stages) {
			if !needed[s] && !c.opts.AllStages || s.triggered || s.done {
				continue
			}
			s.triggered = true
			triggers := s.image.Config.OnBuild
			s.image.Config.OnBuild = nil
			if s.base != nil {
				triggers = nil
				for _, cmd := range s.base.commands {
					if on, ok := cmd.Command.(*instructions.OnbuildCommand); ok {
						triggers = append(triggers, on.Expression)
					}
				}
			}
			more, err := c.trigger(s, triggers)
			if err != nil {
				return nil, parser.SetLocation(err, s.def.Location)
			}
			again = again || more
		}
		if !again {
			return target.reach(nil), nil
		}
	}
}

// trigger puts the commands of ONBUILD before those of s. It reports whether
// they need other stages.
func (c *converter) trigger(s *stage, triggers []string) (more bool, err error) {
	var commands []command
	for _, text := range triggers {
		tree, err := parser.Parse(strings.NewReader(text))
		if err != nil {
			return false, err
		}
		if len(tree.AST.Children) != 1 {
			return false, errors.New("onbuild trigger should be a single expression")
		}
		node := tree.AST.Children[0]
		node.StartLine, node.EndLine = span(s.def.Location)
		// A linter that tells nobody: without one, a comment with "check=" ends the
		// program.
		parsed, err := instructions.ParseInstructionWithLinter(node, linter.New(&linter.Config{}))
		if err != nil {
			return false, err
		}
		ic, ok := parsed.(instructions.Command)
		if !ok {
			return false, parser.WithLocation(fmt.Errorf("%T is not a command type", parsed), node.Location())
		}
		cmd, err := c.command(ic)
		if err != nil {
			return false, err
		}
		cmd.onbuild = true
		s.take(c, cmd)
		more = more || slices.ContainsFunc(cmd.from, func(f *stage) bool { return f != nil })
		commands = append(commands, cmd)
	}
	s.commands = append(commands, s.commands...)
	s.steps += len(commands)
	if more {
		return true, noCircle(c.stages)
	}
	return false, nil
}

// span returns the first and the last line of a place.
func span(at []parser.Range) (first, last int) {
	if len(at) == 0 {
		return 0, 0
	}
	first = math.MaxInt
	for _, r := range at {
		first, last = min(first, r.Start.Line), max(last, r.End.Line)
	}
	return first, last
}
