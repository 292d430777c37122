package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/util/suggest"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/oci"
)

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
