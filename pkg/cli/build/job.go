package build

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/export"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
	"cais.dev/cais/pkg/sys"
)

// job decides what the flags ask for. Nothing is opened but files with arguments.
func (o options) job(e *engine.Engine, s ui.Streams, arg string, changed func(string) bool) (*job, error) {
	j := &job{o: o, e: e, s: s, context: arg}
	for _, f := range []func() error{
		j.setNames, j.setPlatforms, j.setOutputs, j.setCaches, j.setArgs, j.setNetwork, j.setSecrets, j.setPull, j.setCall, j.setView,
	} {
		if err := f(); err != nil {
			return nil, err
		}
	}
	var err error
	if j.named, err = namedContexts(o.contexts); err != nil {
		return nil, err
	}
	if j.annotated, err = annotations(o.annotations); err != nil {
		return nil, err
	}
	j.registry = engine.PullerOptions{AuthFile: o.authFile, Creds: o.creds, CertDir: o.certDir}
	if changed("tls-verify") {
		j.registry.TLSVerify = &o.tlsVerify
	}
	if o.authFile != "" {
		if _, err := os.Stat(o.authFile); err != nil {
			return nil, errs.E("read credentials", errs.NotFound, err)
		}
	}
	if arg == "-" && o.file == "-" {
		return nil, invalid("invalid argument: can't use stdin for both build context and dockerfile")
	}
	if arg == "" {
		return nil, errors.New("unable to prepare context: the context is an empty path")
	}
	return j, nil
}

func (j *job) setNames() error {
	tags := j.o.tags
	if j.o.manifest != "" {
		tags = append(slices.Clone(tags), j.o.manifest)
	}
	for _, t := range tags {
		ref, err := oci.Parse(t)
		if err != nil {
			return ui.Exit(ui.CodeUsage, fmt.Errorf("invalid tag %q: %w", t, err))
		}
		if err := ref.Taggable(); err != nil {
			return ui.Exit(ui.CodeUsage, fmt.Errorf("invalid tag %q: %w", t, err))
		}
		if n := ref.WithDefaultTag().String(); !slices.Contains(j.names, n) {
			j.names = append(j.names, n)
		}
		if t == j.o.manifest {
			j.list = ref.WithDefaultTag().String()
		}
	}
	return nil
}

func (j *job) setPlatforms() (err error) {
	list, own := j.o.platforms, j.o.os+j.o.arch+j.o.variant != ""
	if p := j.e.Getenv("DOCKER_DEFAULT_PLATFORM"); len(list) == 0 && !own && p != "" {
		list = []string{p}
	}
	if j.platforms, err = platforms(list); err != nil || !own {
		return err
	}
	p := oci.HostPlatform()
	if j.o.os != "" {
		p.OS = j.o.os
	}
	if j.o.arch != "" {
		p.Architecture, p.Variant = j.o.arch, ""
	}
	if j.o.variant != "" {
		p.Variant = j.o.variant
	}
	j.platforms = append(j.platforms, p.Normalize())
	return nil
}

func (j *job) setOutputs() (err error) {
	terminal := j.s.OutFile() != nil && sys.IsTerminal(int(j.s.OutFile().Fd()))
	if j.outputs, err = outputs(j.o.outputs, j.o.push, j.o.load, terminal); err != nil {
		return err
	}
	switch j.o.format {
	case "", "docker", "v2s2", "oci":
	default:
		return invalid("unrecognized image type %q: it is oci or docker", j.o.format)
	}
	for _, out := range j.outputs {
		for _, n := range out.Names() {
			if _, err := oci.Parse(n); err != nil {
				return fmt.Errorf("invalid name %q of an output: %w", n, err)
			}
		}
		if out.Type == "image" && out.Flag("push", false) && len(out.Names()) == 0 && len(j.names) == 0 {
			return errs.WithHint(invalid("tag is needed when pushing to registry"), "Give a name with -t.")
		}
	}
	if j.o.squash && j.o.squashAll {
		return invalid("cannot specify --squash-all with --squash")
	}
	if j.o.timestamp != "" && j.o.epoch != "" {
		return invalid("cannot specify --timestamp with --source-date-epoch")
	}
	return nil
}

func (j *job) setCaches() error {
	for _, list := range []struct {
		flags []string
		to    bool
		out   *[]export.CacheSpec
	}{{j.o.cacheFrom, false, &j.cacheFrom}, {j.o.cacheTo, true, &j.cacheTo}} {
		for _, s := range list.flags {
			c, err := parseCache(s, list.to)
			if err != nil {
				return err
			}
			*list.out = append(*list.out, c...)
		}
	}
	return nil
}

func (j *job) setArgs() (err error) {
	var list []string
	for _, f := range j.o.argFiles {
		data, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(data)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				list = append(list, line)
			}
		}
	}
	j.args = buildArgs(append(list, j.o.args...), j.lookup)
	for k, v := range buildArgs(j.o.env, j.lookup) {
		j.environ = append(j.environ, k+"="+v)
	}
	slices.Sort(j.environ)
	for _, kv := range j.e.ClientProxies() { // as Docker's client does
		k, v, _ := strings.Cut(kv, "=")
		if _, ok := j.args[k]; !ok {
			j.args[k] = v
		}
	}
	if _, ok := j.args["SOURCE_DATE_EPOCH"]; !ok {
		if v := j.e.Getenv("SOURCE_DATE_EPOCH"); v != "" {
			j.args["SOURCE_DATE_EPOCH"] = v
		}
	}
	for _, v := range []string{j.o.epoch, j.o.timestamp} {
		if v == "" {
			continue
		}
		if _, err := strconv.ParseInt(v, 10, 64); err != nil {
			return invalid("invalid time %q: it is a number of seconds since 1970", v)
		}
		j.args["SOURCE_DATE_EPOCH"] = v
	}
	return nil
}

func (j *job) lookup(name string) (string, bool) {
	for _, kv := range j.e.Options().Environ {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v, true
		}
	}
	return "", false
}

func (j *job) setNetwork() (err error) {
	for _, a := range split(j.o.allow) {
		switch a {
		case "network.host":
		case "security.insecure":
			j.insecure = true
		default:
			return errs.New(errs.Unsupported, fmt.Sprintf("--allow %s: it is security.insecure or network.host", a))
		}
	}
	switch j.o.network {
	case "", "default", "private": // the last is podman's
	case "host", "none":
		j.network = graph.Network(j.o.network)
	default:
		return errs.New(errs.Unsupported, fmt.Sprintf("network mode %q not supported by build: it is default, none or host", j.o.network))
	}
	j.hosts, err = addHosts(j.o.hosts)
	return err
}

func (j *job) setSecrets() error {
	for _, s := range j.o.secrets {
		x, err := parseSecret(s, func(name string) bool { _, ok := j.lookup(name); return ok })
		if err != nil {
			return err
		}
		j.secrets = append(j.secrets, x)
	}
	for _, s := range j.o.ssh {
		j.ssh = append(j.ssh, parseSSH(s))
	}
	return nil
}

func (j *job) setPull() error {
	always, newer, never, err := pullWords(j.o.pull)
	switch {
	case err != nil:
		return err
	case j.o.pullNever && (always || newer || j.o.pullAlways):
		return invalid("--pull-never contradicts --pull-always or --pull: give one of them")
	case always || j.o.pullAlways:
		j.pull = build.PullAlways
	case newer:
		j.pull = build.PullNewer
	case never || j.o.pullNever:
		j.pull = build.PullNever
	default:
		j.pull = build.PullMissing
	}
	return nil
}

func (j *job) setCall() error {
	word, rest, _ := strings.Cut(j.o.call, ",")
	if j.o.check {
		word = "check"
	}
	switch word {
	case "build", "":
		j.call = "build"
	case "check", "lint":
		j.call = "check"
	case "targets":
		j.call = "targets"
	case "outline":
		j.call = "outline"
	default:
		return invalid("unknown --call %q: it is build, check, outline or targets", word)
	}
	for f := range strings.SplitSeq(rest, ",") {
		switch f {
		case "", "format=text":
		case "format=json":
			j.asJSON = true
		default:
			return invalid("unknown option %q of --call: it has format=text and format=json", f)
		}
	}
	return nil
}

func (j *job) setView() error {
	j.view = j.o.progress
	if v := j.e.Getenv("BUILDKIT_PROGRESS"); (j.view == "auto" || j.view == "") && v != "" {
		j.view = v
	}
	switch j.view {
	case "":
		j.view = "auto"
	case "auto", "plain", "tty", "quiet", "rawjson":
	case "none":
		j.view = "quiet"
	default:
		return invalid("invalid progress mode %q: it is auto, plain, tty, quiet, rawjson or none", j.view)
	}
	if j.view == "tty" && !j.s.ErrTerminal() {
		return invalid("failed to get console: --progress=tty, but stderr is no terminal")
	}
	if j.o.quiet {
		j.view = "quiet"
	}
	return nil
}

// newLog returns what shows the build, and what ends its writing.
func (j *job) newLog() (*progress.Log, func(), error) {
	w, end := j.s.Err, func() {}
	f, terminal := j.s.ErrFile(), j.s.ErrTerminal() && j.e.Getenv("TERM") != "dumb"
	if j.o.logFile != "" {
		file, err := os.OpenFile(j.o.logFile, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, nil, err
		}
		b := bufio.NewWriter(file)
		w, end, terminal = b, func() { b.Flush(); file.Close() }, false
	}
	switch {
	case j.view == "quiet":
		return progress.New(nil), end, nil
	case j.view == "rawjson":
		return progress.New(progress.RawJSON(w)), end, nil
	case j.view == "plain" || !terminal:
		return progress.New(progress.Plain(w)), end, nil
	}
	lines, _ := strconv.Atoi(j.e.Getenv("BUILDKIT_TTY_LOG_LINES"))
	return progress.New(progress.Terminal(w, progress.TerminalOptions{
		Size: func() (int, int) {
			rows, cols, err := sys.WindowSize(int(f.Fd()))
			if err != nil || cols == 0 || rows < 3 {
				return 80, 24
			}
			return int(cols), int(rows)
		},
		Color: j.e.Getenv("NO_COLOR") == "", LogLines: lines, Title: "cais",
	})), end, nil
}
