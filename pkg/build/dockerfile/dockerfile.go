// Package dockerfile turns the text of a Dockerfile into a graph.
//
// What the text says is read by BuildKit's own parser packages, so the syntax is
// Docker's to the letter; what it means, stage by stage and instruction by
// instruction, is decided here. The package opens nothing: it asks a Resolver
// what base images are.
//
//	text ──► stages and commands ──► base images ──► ONBUILD ──► nodes, config, history
//	         parser, instructions    Resolver        until no    one instruction
//	                                 all at once     new stages  after the other
package dockerfile

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/oci"
)

// Options is what a build is asked for, beside the text.
type Options struct {
	Name      string // of the Dockerfile, for messages
	Target    string // stage; empty: the last one
	BuildArgs map[string]string
	Labels    map[string]string // of the result, beside what LABEL says

	// Podman's: From takes the place of the first FROM's image, Env ("KEY=VALUE") is
	// set where a stage begins with an image, the others are left out of the result.
	From                  string
	Env                   []string
	UnsetEnv, UnsetLabels []string

	// Platforms has the results wanted; none: one, for the machine.
	Platforms []oci.Platform
	Build     oci.Platform // the machine

	// Contexts are the named ones: name to what it is, "docker-image://ref",
	// "oci-layout://dir:tag" or "oci-layout://dir@sha256:…"; whatever else is there becomes a graph.Local of
	// the name. A name may end in "::os/arch" to be for one platform alone.
	Contexts map[string]string

	NoCache       bool     // nothing is taken from the cache
	NoCacheStages []string // the same for stages

	// Ignored tells whether the context's ignore file leaves a clean relative path
	// out, "." being all of it; nil if there is none, or one with exceptions.
	Ignored func(path string) bool

	Network      graph.Network
	Hosts        []graph.Host
	Ulimits      []graph.Ulimit
	ShmSize      int64 // bytes; 0: 64 MiB
	CgroupParent string

	Resolver Resolver
	// Epoch finds the time of a source for SOURCE_DATE_EPOCH=context, or the name
	// of a context or of a stage with one remote ADD. op is a *graph.Local, *graph.Git or *graph.HTTP.
	Epoch func(ctx context.Context, op graph.Op) (*time.Time, error)

	// Warn is told what the lint rules find, unless nil.
	Warn func(Warning)

	// AllStages has the stages that the target does not need checked, too.
	AllStages bool
}

// Resolver finds base images. It is called from several goroutines.
type Resolver interface {
	// Resolve returns what an image is. The error's words are shown after its name.
	Resolve(ctx context.Context, img Image) (Base, error)
}

// Image is what a Resolver is asked for.
type Image struct {
	Ref      string       // normal form, with tag or digest
	Layout   string       // if set: look into this OCI layout, Ref is for people
	Platform oci.Platform // which of an index
}

// Base is what a Resolver found.
type Base struct {
	Digest string    // of the manifest for the platform
	Config oci.Image // its config
}

// Warning is a finding of a lint rule.
type Warning struct {
	Rule        string // "StageNameCasing"
	Description string // what the rule wants
	URL         string // may be empty
	Message     string // what was found
	Lines       []graph.Range
}

// Plan is a converted Dockerfile.
type Plan struct {
	Graph *graph.Graph

	// UnusedArgs are the build arguments that nothing asked for, sorted.
	UnusedArgs []string
}

// Convert reads a Dockerfile. Its errors are of type *Error where the text is at fault.
func Convert(ctx context.Context, text []byte, opts Options) (*Plan, error) {
	src := graph.Source{Name: opts.Name, Data: text}
	platforms := opts.Platforms
	if len(platforms) == 0 {
		platforms = []oci.Platform{opts.Build}
	}
	b := &graph.Builder{}
	var results []graph.Result
	used := map[string]bool{}
	for i, p := range platforms {
		o := opts
		// What is wrong with one platform's is wrong with all.
		if i > 0 {
			o.Warn = nil
		}
		c, err := newConverter(ctx, text, o, p, b)
		if err != nil {
			return nil, located(src, err)
		}
		r, err := c.convert(ctx)
		if err != nil {
			return nil, located(src, err)
		}
		results = append(results, r)
		maps.Copy(used, c.used)
	}
	plan := &Plan{Graph: b.Graph(results, src)}
	for _, k := range slices.Sorted(maps.Keys(opts.BuildArgs)) {
		if !used[k] && !predefined(k) {
			plan.UnusedArgs = append(plan.UnusedArgs, k)
		}
	}
	return plan, nil
}

// predefined reports whether k needs no ARG to have an effect.
func predefined(k string) bool {
	switch strings.ToLower(k) {
	case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy":
		return true
	}
	switch k {
	case "BUILDKIT_SYNTAX", "BUILDKIT_DOCKERFILE_CHECK", "BUILDKIT_CACHE_MOUNT_NS", "BUILDKIT_SANDBOX_HOSTNAME",
		"BUILDKIT_INLINE_CACHE", "BUILDKIT_MULTI_PLATFORM", "BUILDKIT_CONTEXT_KEEP_GIT_DIR", "SOURCE_DATE_EPOCH":
		return true // others, of attestations and histories, have none here
	}
	return strings.HasPrefix(k, "BUILD") && isPlatformArg(k[len("BUILD"):]) ||
		strings.HasPrefix(k, "TARGET") && (isPlatformArg(k[len("TARGET"):]) || k == "TARGETSTAGE")
}

func isPlatformArg(s string) bool {
	switch s {
	case "PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT":
		return true
	}
	return false
}
