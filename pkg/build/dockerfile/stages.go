package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"

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

// resolveImages asks for images, all at once.
func (c *converter) resolveImages(ctx context.Context, needed map[*stage]bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	type found struct {
		base Base
		err  error
	}
	// Stages FROM the same image ask once.
	asked := map[string]*found{}
	type made struct {
		s   *stage
		img Image
		how string
	}
	var list []made
	for _, s := range c.stages {
		wanted := needed[s] || c.opts.AllStages
		if s.base != nil || s.resolved || s.done {
			continue
		}
		if !s.replaced && s.def.BaseName == scratch {
			s.resolved, s.done = true, s.foreign
			p := c.target
			s.platform, s.image = &p, emptyImage(p)
			c.setEnv(s)
			continue
		}
		img, how, err := c.imageOf(s)
		if err != nil {
			return parser.WithLocation(err, s.def.Location)
		}
		if !wanted {
			continue
		}
		s.resolved = true
		if how == "local" || how == scratch {
			c.fromContext(s, how)
			continue
		}
		list = append(list, made{s, img, how})
		if asked[img.key()] != nil {
			continue
		}
		f := &found{}
		asked[img.key()] = f
		wg.Go(func() {
			if f.base, f.err = c.opts.Resolver.Resolve(ctx, img); f.err != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	// Of several errors the one that made the others end, or the first.
	var at *stage
	var fail error
	for _, m := range list {
		if err := asked[m.img.key()].err; err != nil && (fail == nil || errors.Is(fail, context.Canceled)) {
			at, fail = m.s, err
		}
	}
	if fail != nil {
		name := at.def.BaseName
		err := suggest.WrapError(fmt.Errorf("%s: %w", name, fail), name, append(c.names(), commonImages()...), true)
		return parser.WithLocation(err, at.def.Location)
	}
	for _, m := range list {
		c.fromImage(m.s, m.img, asked[m.img.key()].base, m.how)
	}
	return nil
}

// setEnv gives a stage what --env says.
func (c *converter) setEnv(s *stage) {
	if s.foreign || len(c.opts.Env) == 0 {
		return
	}
	e := environ(s.image.Config.Env)
	for _, kv := range c.opts.Env {
		k, v, _ := strings.Cut(kv, "=")
		e = e.with(k, v)
	}
	s.image.Config.Env = e
}

// key is equal for images that are the same.
func (i Image) key() string { return i.Ref + " " + i.Layout + " " + i.Platform.String() }

// imageOf says what s is made from: how is "image", "context" (an image by a
// named context), "local" or "scratch".
func (c *converter) imageOf(s *stage) (img Image, how string, err error) {
	platform := s.platform
	if platform == nil {
		platform = &c.target
	}
	img.Platform = *platform
	if !s.replaced {
		s.context = c.namedContext(s.def.BaseName, s.platform)
		ref, err := oci.Parse(s.def.BaseName)
		if err != nil {
			return img, "", fmt.Errorf("failed to parse stage name %q: %w", s.def.BaseName, err)
		}
		img.Ref, how = ref.WithDefaultTag().String(), "image"
	}
	switch kind, value, _ := strings.Cut(s.context, ":"); kind {
	case "docker-image":
		value = strings.TrimPrefix(value, "//")
		if value == scratch {
			return img, scratch, nil
		}
		ref, err := oci.Parse(value)
		if err != nil {
			return img, "", fmt.Errorf("invalid context value %q: %w", s.context, err)
		}
		img.Ref, how = ref.WithDefaultTag().String(), "context"
	case "oci-layout":
		img.Layout, how = strings.TrimPrefix(value, "//"), "context"
		if img.Ref == "" {
			img.Ref = s.def.Name
		}
	case "local":
		how = "local"
	}
	return img, how, nil
}

// fromContext makes s of a named context's files.
func (c *converter) fromContext(s *stage, how string) {
	p := c.target
	if s.platform != nil {
		p = *s.platform
	}
	s.platform, s.image = &p, emptyImage(p)
	c.setEnv(s)
	if how == "local" {
		name := strings.TrimPrefix(s.context, "local:")
		s.node = c.b.Add(graph.Node{Op: &graph.Local{Name: name}, Name: "[context " + name + "] load from client"})
	}
	s.done = s.foreign || s.replaced
}

// fromImage makes s of an image.
func (c *converter) fromImage(s *stage, img Image, base Base, how string) {
	p := img.Platform
	s.platform, s.image = &p, cloneImage(base.Config)
	s.baseHistory = len(s.image.History)
	c.setEnv(s)
	if s.image.OS == "" {
		s.image.Platform = p
	}
	s.done = s.foreign || s.replaced
	// An image without layers is as good as none.
	layers := len(base.Config.RootFS.DiffIDs)
	for _, h := range base.Config.History {
		if !h.EmptyLayer {
			layers++ // config without diffIDs, from an old manifest
		}
	}
	if layers == 0 {
		return
	}
	shown := img.Ref
	if ref, err := oci.Parse(img.Ref); err == nil && ref.Digest == "" && base.Digest != "" {
		shown += "@" + base.Digest
	}
	name := c.prefix(s, "FROM "+shown)
	if how == "context" {
		name = "[context " + s.def.BaseName + "] " + img.Ref
	} else {
		lintBasePlatform(s.def.BaseName, p, base.Config.Platform, s.def.Location, c.lint)
	}
	s.node = c.b.Add(graph.Node{
		Op:       &graph.Image{Ref: img.Ref, Layout: img.Layout, Digest: base.Digest, DiffIDs: base.Config.RootFS.DiffIDs},
		Platform: p, Name: name, Stage: s.name, Command: s.def.SourceCode, Lines: toRanges(s.def.Location),
	})
	s.bottom = s.node
}

// inherit makes s go on from where its base ended.
func (c *converter) inherit(s *stage) {
	b := s.base
	if b == nil {
		return
	}
	s.node, s.bottom, s.layers, s.baseHistory = b.node, b.bottom, slices.Clone(b.layers), b.baseHistory
	s.platform, s.image = b.platform, cloneImage(b.image)
	s.image.Config.OnBuild = nil
	s.context, s.workdirSet = b.context, b.workdirSet
	s.args = append(slices.Clone(s.args), b.args...)
}

// root gives s a file system of its own if what it has is the files of a
// context, which are no layer.
func (c *converter) root(s *stage) {
	if s.node == graph.None {
		return
	}
	from := c.b.Node(s.node)
	if _, ok := from.Op.(*graph.Local); !ok {
		return
	}
	line := "FROM " + strings.TrimPrefix(s.context, "local:")
	s.node = c.b.Add(graph.Node{
		Op:       &graph.Copy{On: graph.None, Sources: []graph.CopySource{{From: s.node, Path: "/", Literal: true}}, Dest: "/"},
		Platform: *s.platform, Name: from.Name, Stage: s.name, Epoch: c.epoch,
		Command: line, Lines: toRanges(s.def.Location),
	})
	s.layers = []graph.ID{s.node}
	c.commit(s, line, true)
}

// prefix is the place of a step in the progress view: "[build 2/5] RUN make".
func (c *converter) prefix(s *stage, line string) string {
	if s.steps == 0 {
		return line
	}
	place := ""
	if len(c.opts.Platforms) > 1 && s.platform != nil {
		place = s.platform.String() + crossTarget(*s.platform, s.env) + " "
	}
	if s.name != "" {
		place += s.name + " "
	}
	s.step++
	width := len(strconv.Itoa(s.steps))
	line = fmt.Sprintf("[%s%*d/%d] ", place, width, s.step, s.steps) + onbuildPrefix(s) + line
	return line
}

func onbuildPrefix(s *stage) string {
	if s.onbuild {
		return "ONBUILD "
	}
	return ""
}

// crossTarget is "->arm64" if the stage works for another platform than it runs on.
func crossTarget(on oci.Platform, env environ) string {
	var p oci.Platform
	for _, k := range env.Keys() {
		v, _ := env.Get(k)
		switch k {
		case "TARGETPLATFORM":
			if t, err := oci.ParsePlatform(v, on); err == nil {
				return arrow(on, t)
			}
		case "TARGETOS":
			p.OS = v
		case "TARGETARCH":
			p.Architecture = v
		case "TARGETVARIANT":
			p.Variant = v
		}
	}
	if p.OS == "" {
		p.OS = on.OS
	}
	if p.Architecture == "" {
		p.Architecture = on.Architecture
	}
	return arrow(on, p)
}

func arrow(on, target oci.Platform) string {
	target = target.Normalize()
	switch {
	case target.OS != on.OS:
		return "->" + target.String()
	case target.Architecture != on.Architecture:
		return "->" + strings.TrimPrefix(target.String(), target.OS+"/")
	}
	return ""
}

// emptyImage is the config of scratch.
func emptyImage(p oci.Platform) oci.Image {
	return oci.Image{
		Platform: p,
		RootFS:   oci.RootFS{Type: "layers"},
		Config:   oci.Config{WorkingDir: "/", Env: []string{defaultPath}},
	}
}

// commonImages are what people mean when they mistype.
func commonImages() []string {
	var list []string
	for _, n := range []string{"alpine", "busybox", "centos", "debian", "golang", "ubuntu", "fedora"} {
		list = append(list, n, "docker.io/library/"+n, n+":latest", "docker.io/library/"+n+":latest")
	}
	return list
}

func keySet(keys []string) map[string]struct{} {
	set := make(map[string]struct{}, len(keys))
	for _, k := range keys {
		set[k] = struct{}{}
	}
	return set
}
