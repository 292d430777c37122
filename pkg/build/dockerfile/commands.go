package dockerfile

import (
	"errors"
	"fmt"
	"maps"
	"path"
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

// dispatchStage carries out the commands of s. The stages that it needs have
// theirs already.
func (c *converter) dispatchStage(s *stage) error {
	c.inherit(s)
	s.done = true
	if s.platform == nil {
		p := c.target
		s.platform = &p
	}
	if _, ok := environ(s.image.Config.Env).Get("PATH"); !ok {
		s.image.Config.Env = append(s.image.Config.Env, defaultPath)
	}
	// What an ARG of the base stage set is seen here, too.
	if s.base != nil {
		s.env = s.base.env
	}
	for _, kv := range s.image.Config.Env {
		k, v, _ := strings.Cut(kv, "=")
		s.env = s.env.with(k, v)
	}
	c.root(s)
	if wd := s.image.Config.WorkingDir; wd != "" {
		s.image.Config.WorkingDir = workdir("/", wd)
	}
	s.cwd, s.user = s.image.Config.WorkingDir, s.image.Config.User
	for _, cmd := range s.commands {
		if err := c.dispatchCommand(s, cmd); err != nil {
			return parser.WithLocation(err, cmd.Location())
		}
	}
	return nil
}

// dispatchCommand expands the variables of one command and carries it out.
func (c *converter) dispatchCommand(s *stage, cmd command) error {
	lint := c.lint.WithMergedConfigFromComments(cmd.Comments())
	s.onbuild = cmd.onbuild
	expand := func(lex *shell.Lex) instructions.SingleWordExpander {
		return func(word string) (string, error) {
			if err := bounded(word, s.env); err != nil {
				return "", err
			}
			out, unmatched, err := lex.ProcessWord(word, s.env)
			lintUndefined(cmd, s, unmatched, lint)
			return out, err
		}
	}
	// ARG has its turn below: a default that does not count may be wrong.
	if ex, ok := cmd.Command.(instructions.SupportsSingleWordExpansion); ok {
		if _, isArg := cmd.Command.(*instructions.ArgCommand); !isArg {
			if err := ex.Expand(expand(c.lex)); err != nil {
				return err
			}
		}
	}
	if ex, ok := cmd.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		raw := shell.NewLex('\\')
		raw.SkipProcessQuotes = true
		if err := ex.ExpandRaw(expand(raw)); err != nil {
			return err
		}
	}
	switch ic := cmd.Command.(type) {
	case *instructions.RunCommand:
		return c.run(s, ic, cmd.from)
	case *instructions.CopyCommand:
		return c.copy(s, cmd, lint)
	case *instructions.AddCommand:
		return c.copy(s, cmd, lint)
	case *instructions.WorkdirCommand:
		c.workdir(s, ic, lint)
	case *instructions.ArgCommand:
		return c.arg(s, ic, lint)
	case *instructions.ExposeCommand:
		return c.expose(s, ic, lint)
	default:
		return c.configure(s, cmd.Command, lint)
	}
	return nil
}

// configure carries out what changes the config alone.
func (c *converter) configure(s *stage, cmd instructions.Command, lint *linter.Linter) error {
	cfg := &s.image.Config
	line := ""
	switch ic := cmd.(type) {
	case *instructions.EnvCommand:
		line = "ENV"
		for _, kv := range ic.Env {
			lintPair(ic, kv, lint)
			lintSecret("ENV", kv.Key, ic.Location(), lint)
			line += " " + kv.String()
			s.env = s.env.with(kv.Key, kv.Value)
			cfg.Env = setEnv(cfg.Env, kv.Key, kv.Value)
		}
	case *instructions.LabelCommand:
		line = "LABEL"
		if cfg.Labels == nil {
			cfg.Labels = map[string]string{}
		}
		for _, kv := range ic.Labels {
			lintPair(ic, kv, lint)
			line += " " + kv.String()
			cfg.Labels[kv.Key] = kv.Value
		}
	case *instructions.MaintainerCommand:
		s.image.Author = ic.Maintainer
		line = "MAINTAINER " + ic.Maintainer
	case *instructions.OnbuildCommand:
		cfg.OnBuild = append(cfg.OnBuild, ic.Expression)
		return nil // no history
	case *instructions.CmdCommand:
		lintOnce(ic, &s.cmdLines, lint)
		s.cmdSet = true
		cfg.Cmd, cfg.ArgsEscaped = commandLine(s, ic, ic.ShellDependantCmdLine, lint), true
		line = fmt.Sprintf("CMD %q", cfg.Cmd)
	case *instructions.EntrypointCommand:
		lintOnce(ic, &s.entrypointLines, lint)
		cfg.Entrypoint = commandLine(s, ic, ic.ShellDependantCmdLine, lint)
		if !s.cmdSet {
			cfg.Cmd = nil
		}
		line = fmt.Sprintf("ENTRYPOINT %q", cfg.Entrypoint)
	case *instructions.HealthCheckCommand:
		lintOnce(ic, &s.healthyLines, lint)
		h := ic.Health
		cfg.Healthcheck = &oci.Healthcheck{
			Test: h.Test, Interval: h.Interval, Timeout: h.Timeout,
			StartPeriod: h.StartPeriod, StartInterval: h.StartInterval, Retries: h.Retries,
		}
		line = fmt.Sprintf("HEALTHCHECK %+v", *cfg.Healthcheck)
	case *instructions.UserCommand:
		s.user, cfg.User = ic.User, ic.User
		line = "USER " + ic.User
	case *instructions.VolumeCommand:
		if cfg.Volumes == nil {
			cfg.Volumes = map[string]struct{}{}
		}
		for _, v := range ic.Volumes {
			if v == "" {
				return errors.New("VOLUME specified can not be an empty string")
			}
			cfg.Volumes[v] = struct{}{}
		}
		line = fmt.Sprintf("VOLUME %v", ic.Volumes)
	case *instructions.StopSignalCommand:
		if !validSignal(ic.Signal) {
			return fmt.Errorf("invalid signal: %s", ic.Signal)
		}
		cfg.StopSignal = ic.Signal
		line = "STOPSIGNAL " + ic.Signal
	case *instructions.ShellCommand:
		cfg.Shell = ic.Shell
		line = fmt.Sprintf("SHELL %v", ic.Shell)
	default:
		return fmt.Errorf("%s is not supported", strings.ToUpper(cmd.Name()))
	}
	c.commit(s, line, false)
	return nil
}

// commit adds to the history.
func (c *converter) commit(s *stage, line string, layer bool) {
	h := oci.History{CreatedBy: line, Comment: "buildkit.dockerfile.v0", EmptyLayer: !layer}
	if c.epoch != nil {
		h.Created = *c.epoch
	}
	s.image.History = append(s.image.History, h)
}

// commandLine is what CMD and ENTRYPOINT mean: a list as it stands, anything
// else for the shell.
func commandLine(s *stage, cmd instructions.Command, line instructions.ShellDependantCmdLine, lint *linter.Linter) []string {
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(s.image.Config.Shell) == 0 {
		lint.Run(&linter.RuleJSONArgsRecommended, cmd.Location(), linter.RuleJSONArgsRecommended.Format(cmd.Name()))
	}
	return withShell(s.image.Config.Shell, line.CmdLine)
}

func withShell(shell, args []string) []string {
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(shell), strings.Join(args, " "))
}

// workdir is the absolute form of p, said in the directory cwd.
func workdir(cwd, p string) string {
	switch {
	case p == "":
		p = cwd
	case !path.IsAbs(p):
		p = path.Join("/", cwd, p)
	}
	return p
}

func (c *converter) workdir(s *stage, ic *instructions.WorkdirCommand, lint *linter.Linter) {
	if !s.workdirSet && !path.IsAbs(ic.Path) {
		lint.Run(&linter.RuleWorkdirRelativePath, ic.Location(), linter.RuleWorkdirRelativePath.Format(ic.Path))
	}
	s.workdirSet = true
	wd := workdir(s.image.Config.WorkingDir, ic.Path)
	s.image.Config.WorkingDir, s.cwd = wd, wd
	line := "WORKDIR " + wd
	if wd != "/" {
		s.node = c.b.Add(graph.Node{
			Op:       &graph.Mkdir{On: s.node, Path: path.Clean(wd), User: ownerOf(s.image.Config.User), Mode: 0o755},
			Platform: *s.platform, Epoch: c.epoch, NoCache: false,
			Name: c.prefix(s, upper(c.shown(ic.String(), s.env))), Stage: s.name, Command: line, Lines: toRanges(ic.Location()),
		})
		s.layers = append(s.layers, s.node)
	}
	c.commit(s, line, wd != "/")
}

// arg declares build arguments. A value comes from the build's options, from
// the line's default, or from the ARG of that name before the first FROM.
func (c *converter) arg(s *stage, ic *instructions.ArgCommand, lint *linter.Linter) error {
	line := "ARG"
	for _, a := range ic.Args {
		lintSecret("ARG", a.Key, ic.Location(), lint)
		c.used[a.Key] = true
		given, ok := c.opts.BuildArgs[a.Key]
		inherited := false
		switch {
		case ok:
			a.Value = &given
		case a.Value != nil:
			if err := bounded(*a.Value, s.env); err != nil {
				return err
			}
			v, unmatched, err := c.lex.ProcessWord(*a.Value, s.env)
			lintUndefined(ic, s, unmatched, lint)
			if err != nil {
				return err
			}
			a.Value = &v
		default:
			if v, ok := c.globals.Get(a.Key); ok {
				a.Value, inherited = &v, true
			}
		}
		info := argInfo{def: a, lines: ic.Location()}
		line += " " + a.Key
		if a.Value != nil {
			line += "=" + *a.Value
			info.value = *a.Value
			if a.Key != "BUILDKIT_SBOM_SCAN_CONTEXT" && a.Key != "BUILDKIT_SBOM_SCAN_STAGE" {
				s.env = s.env.with(a.Key, *a.Value)
			}
		}
		if !inherited {
			s.outline.args[a.Key] = info
		}
		s.outline.used[a.Key] = struct{}{}
		s.args = append(s.args, a)
	}
	c.commit(s, line, false)
	return nil
}

// shown is a command with its variables as far as they are set, for the
// progress view.
func (c *converter) shown(line string, env shell.EnvGetter) string {
	if bounded(line, env) != nil {
		return line
	}
	if out, _, err := c.lex.ProcessWord(line, env); err == nil {
		return out
	}
	return line
}

func upper(line string) string {
	name, rest, ok := strings.Cut(line, " ")
	if !ok {
		return strings.ToUpper(name)
	}
	return strings.ToUpper(name) + " " + rest
}

// validSignal reports whether s is a number or a name of Linux's signals.
func validSignal(s string) bool {
	if n, err := strconv.Atoi(s); err == nil {
		return n != 0
	}
	name := strings.TrimPrefix(strings.ToUpper(s), "SIG")
	switch name {
	case "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
		"POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
		"URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ", "RTMIN", "RTMAX":
		return true
	}
	if n, ok := strings.CutPrefix(name, "RTMIN+"); ok {
		v, err := strconv.Atoi(n)
		return err == nil && v >= 1 && v <= 15
	}
	if n, ok := strings.CutPrefix(name, "RTMAX-"); ok {
		v, err := strconv.Atoi(n)
		return err == nil && v >= 1 && v <= 14
	}
	return false
}

// cloneImage returns img with nothing shared that commands change.
func cloneImage(img oci.Image) oci.Image {
	cfg := &img.Config
	cfg.Env, cfg.Cmd, cfg.Entrypoint = slices.Clone(cfg.Env), slices.Clone(cfg.Cmd), slices.Clone(cfg.Entrypoint)
	cfg.OnBuild, cfg.Shell = slices.Clone(cfg.OnBuild), slices.Clone(cfg.Shell)
	cfg.ExposedPorts, cfg.Volumes, cfg.Labels = maps.Clone(cfg.ExposedPorts), maps.Clone(cfg.Volumes), maps.Clone(cfg.Labels)
	img.History = slices.Clone(img.History)
	img.RootFS.DiffIDs = slices.Clone(img.RootFS.DiffIDs)
	return img
}
