// Package build has the commands about building: build in all of its spellings,
// the build cache's, and those of Docker's buildx.
package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/userns"
)

// NewBuild makes "build", "image build", "builder build", "buildx build".
func NewBuild(e *engine.Engine, s ui.Streams) *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] PATH | URL | -",
		Short: "Make an image from a Dockerfile",
		Example: "  cais build -t app .\n  cais build -f docker/Dockerfile --target test .\n" +
			"  cais build --output out .\n  cais build https://github.com/user/repo.git#main:dir",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && o.file != "" && !isURL(o.file) {
				return nil // podman's: the context is the Dockerfile's directory
			}
			return ui.ExactArgs(1)(cmd, args)
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			warn := func(string) {}
			if !userns.Inside() { // the command runs again in there
				warn = func(text string) { fmt.Fprintln(s.Err, "WARNING:", text) }
			}
			if err := errors.Join(usedOthers(cmd.Flags()), o.refuseAttests(warn)); err != nil {
				return err
			}
			dir := filepath.Dir(o.file)
			if len(args) > 0 {
				dir = args[0]
			}
			j, err := o.job(e, s, dir, cmd.Flags().Changed)
			if err != nil {
				return err
			}
			if code, entered, err := e.EnterUserNS(cmd.Context()); entered || err != nil {
				return ended(code, err)
			}
			return j.run(cmd.Context())
		},
	}
	o.define(cmd.Flags())
	for _, name := range []string{"file", "iidfile", "metadata-file", "ignorefile", "authfile", "build-arg-file", "logfile"} {
		_ = cmd.MarkFlagFilename(name)
	}
	return cmd
}

// ended is the end of a command that ran again inside the user's namespace.
func ended(code int, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return &ui.ExitError{Code: code}
}

// job is a build whose flags make sense.
type job struct {
	o options
	e *engine.Engine
	s ui.Streams

	context   string // as it was typed
	names     []string
	list      string // of names: that of --manifest
	platforms []oci.Platform
	outputs   []export.Spec
	cacheFrom []export.CacheSpec
	cacheTo   []export.CacheSpec
	named     map[string]string
	args      map[string]string
	environ   []string // of --env, KEY=VALUE
	hosts     []graph.Host
	network   graph.Network
	insecure  bool
	secrets   []source.Secret
	ssh       []source.SSH
	annotated []annotation
	pull      build.Pull
	registry  engine.PullerOptions
	call      string // build, check, targets
	asJSON    bool
	view      string // of --progress

	// While it runs.
	log      *progress.Log
	sources  *source.Sources
	text     []byte // the Dockerfile
	name     string // its name, for messages
	warnings []dockerfile.Warning
	notes    []string // to be printed behind the picture
	closers  []func()
	solving  bool // the Dockerfile was read: errors are about what it says
}

// run builds.
func (j *job) run(ctx context.Context) (err error) {
	// The process ends with the build, and what it holds is small: collecting garbage is
	// a fifth of the work when nothing changed.
	debug.SetGCPercent(400)
	log, end, err := j.newLog()
	if err != nil {
		return err
	}
	defer end()
	j.log = log
	defer func() {
		j.log.Close() // the picture ends before the error
		j.showNotes()
		j.showWarnings()
		err = j.explain(err)
	}()
	if err := j.removeID(); err != nil {
		return err
	}
	if err := j.prepare(); err != nil {
		return err
	}
	defer func() {
		for _, f := range j.closers {
			f()
		}
		err = errors.Join(err, j.sources.Close())
	}()
	if err := j.load(ctx); err != nil {
		return err
	}
	if j.call == "targets" {
		return j.targets()
	}
	b, err := j.e.Builder(engine.BuilderOptions{PullerOptions: j.registry, Pull: j.pull, Progress: j.log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	j.solving = true
	if j.call == "outline" {
		return j.outline(ctx, b)
	}
	p, err := j.convert(ctx, b)
	if j.call == "check" {
		return j.checked(err)
	}
	if err != nil {
		return err
	}
	if err := j.allowed(p.Graph); err != nil {
		return err
	}
	if len(p.UnusedArgs) > 0 {
		j.notes = append(j.notes, fmt.Sprintf("One or more build-args %v were not consumed", p.UnusedArgs))
	}
	return j.execute(ctx, b, p.Graph)
}

// prepare makes the sources.
func (j *job) prepare() error {
	secrets, err := source.NewSecrets(j.secrets, j.lookup)
	if err != nil {
		return err
	}
	agents, err := source.NewAgents(j.ssh, j.lookup)
	if err != nil {
		return err
	}
	paths, err := j.e.Paths()
	if err != nil {
		return err
	}
	o := source.Options{
		Dir: filepath.Join(paths.Root, "build"), Secrets: secrets, Agents: agents, Environ: j.e.Options().Environ,
		UserAgent: "cais/" + j.e.Build().Version,
	}
	if userns.OuterUID() != os.Geteuid() {
		o.User, o.Group = userns.OuterUID(), userns.OuterGID()
	}
	j.sources = source.New(o)
	return nil
}

// convert makes the graph.
func (j *job) convert(ctx context.Context, b *engine.Builder) (*dockerfile.Plan, error) {
	return dockerfile.Convert(ctx, j.text, j.options(ctx, b))
}

func (j *job) options(ctx context.Context, b *engine.Builder) dockerfile.Options {
	o := dockerfile.Options{
		Name: j.name, Target: j.o.target, BuildArgs: j.args, Labels: labels(j.o.labels),
		Platforms: j.platforms, Build: oci.HostPlatform().Normalize(), Contexts: j.named,
		From: j.o.from, Env: j.environ, UnsetEnv: j.o.unsetEnv, UnsetLabels: j.o.unsetLabels,
		NoCache: j.o.noCache || !j.o.layers, NoCacheStages: split(j.o.noCacheFilter),
		Network: j.network, Hosts: j.hosts, Ulimits: j.o.ulimits, ShmSize: j.o.shmSize, CgroupParent: j.o.cgroupParent,
		Resolver: b.Bases, Epoch: j.epoch, AllStages: j.call == "check" && j.o.target == "",
		Warn: func(w dockerfile.Warning) { j.warnings = append(j.warnings, w) },
	}
	if t, err := j.sources.Local(ctx, "context"); err == nil && t != nil {
		if m := t.Ignore(); m != nil && !m.Inverted() {
			o.Ignored = m.Ignored
		}
	}
	return o
}

// split takes lists apart that were given with commas.
func split(list []string) []string {
	var out []string
	for _, s := range list {
		for p := range strings.SplitSeq(s, ",") {
			if p = strings.TrimSpace(p); p != "" {
				out = append(out, p)
			}
		}
	}
	return out
}

// epoch finds the time of a source, for SOURCE_DATE_EPOCH=context and the like.
func (j *job) epoch(ctx context.Context, op graph.Op) (*time.Time, error) {
	o, err := j.sources.Open(ctx, op, nil)
	if err != nil || o.Time.IsZero() {
		return nil, err
	}
	return &o.Time, nil
}

// allowed refuses what needs --allow.
func (j *job) allowed(g *graph.Graph) error {
	for _, n := range g.Nodes {
		if x, ok := n.Op.(*graph.Exec); ok && x.Insecure && !j.insecure {
			err := errs.WithHint(errs.New(errs.Denied, "security.insecure is not allowed"), "Add --allow security.insecure.")
			return &dockerfile.Error{Source: g.Source, Lines: n.Lines, Err: err}
		}
	}
	return nil
}

// execute carries the graph out and makes the outputs.
func (j *job) execute(ctx context.Context, b *engine.Builder, g *graph.Graph) (err error) {
	x := exporter{j: j, b: b}
	req := build.Request{
		CacheFrom: j.readCaches(ctx, b, g), CacheMode: j.cacheMode(),
		Graph: g, Sources: j.sources, Progress: j.log, Jobs: j.o.jobs, OCI: j.isOCI(),
		CgroupParent: j.o.cgroupParent,
	}
	if req.Rewrite, err = x.rewrite(g); err != nil {
		return err
	}
	if j.inlineCache() {
		req.Inline = export.EncodeInline
	}
	for _, u := range j.o.ulimits {
		req.Ulimits = append(req.Ulimits, plan.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if err := errors.Join(j.o.sandbox.apply(&req), x.request(&req)); err != nil {
		return err
	}
	if j.list != "" { // refused before anything is built
		r, err := j.e.Reader()
		if err != nil {
			return err
		}
		if _, err := x.listed(ctx, r, j.list); err != nil {
			return err
		}
	}
	res, err := b.Build(ctx, req)
	if err != nil {
		return err
	}
	defer res.Close()
	if err := x.export(ctx, res); err != nil {
		return err
	}
	return j.writeCaches(ctx, res.Cache)
}

// isOCI reports whether manifests are to be OCI's.
func (j *job) isOCI() bool {
	if j.o.format == "oci" || len(j.annotated) > 0 {
		return true
	}
	for _, o := range j.outputs {
		if o.Flag("oci-mediatypes", o.Type == "oci") || o.Attrs["compression"] == "zstd" {
			return true
		}
		for k := range maps.Keys(o.Attrs) {
			if strings.HasPrefix(k, "annotation") {
				return true
			}
		}
	}
	return false
}
