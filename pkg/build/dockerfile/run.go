package dockerfile

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"cais.dev/cais/pkg/build/graph"
)

// run makes the node of a RUN.
func (c *converter) run(s *stage, ic *instructions.RunCommand, from []*stage) error {
	e := &graph.Exec{
		Root: s.node, Cwd: s.cwd, User: s.user,
		Network: c.opts.Network, Hosts: c.opts.Hosts, Ulimits: c.opts.Ulimits,
		Proxy: c.proxy, ShmSize: c.opts.ShmSize, CgroupParent: c.opts.CgroupParent,
		Hostname: "buildkitsandbox",
	}
	if h := c.opts.BuildArgs["BUILDKIT_SANDBOX_HOSTNAME"]; h != "" {
		e.Hostname = h
	}
	if e.Cwd == "" {
		e.Cwd = "/"
	}
	args, note, err := heredocs(ic, e)
	if err != nil {
		return err
	}
	if ic.PrependShell {
		args = withShell(s.image.Config.Shell, args)
	}
	e.Args = args
	agent, err := c.mounts(s, ic, from, e)
	if err != nil {
		return err
	}
	switch n := instructions.GetNetwork(ic); n {
	case instructions.NetworkDefault:
	case instructions.NetworkNone:
		e.Network = graph.NetworkNone
	case instructions.NetworkHost:
		e.Network = graph.NetworkHost
	default:
		return fmt.Errorf("unsupported network mode %q", n)
	}
	switch m := instructions.GetSecurity(ic); m {
	case instructions.SecuritySandbox:
	case instructions.SecurityInsecure:
		e.Insecure = true
	default:
		return fmt.Errorf("unsupported security mode %q", m)
	}
	env := s.env
	if _, ok := env.Get("SSH_AUTH_SOCK"); agent != "" && !ok {
		env = env.with("SSH_AUTH_SOCK", agent)
	}
	e.Env = env

	// The view has secrets' names as stars, and leaves what it does not know.
	lex := *c.lex
	lex.RawQuotes, lex.SkipUnsetEnv = true, true
	m := masked{environ: s.env}
	for _, sec := range e.Secrets {
		m.names = append(m.names, sec.Name)
	}
	line := ic.String() + note
	if bounded(line, s.env) == nil {
		if out, _, err := lex.ProcessWord(line, m); err == nil {
			line = out
		}
	}
	history := "RUN " + withArgs(args, s)
	s.node = c.b.Add(graph.Node{
		Op: e, Platform: *s.platform, NoCache: s.noCache, Epoch: c.epoch,
		Name: c.prefix(s, upper(line)), Stage: s.name, Command: history, Lines: toRanges(ic.Location()),
	})
	s.layers = append(s.layers, s.node)
	c.commit(s, history+" # buildkit", true)
	return nil
}

// heredocs returns the arguments of a RUN. A script that is all of the command
// becomes a file if it has an interpreter, or the shell's argument; a heredoc that
// is part of a command is the shell's to read. note is for the progress view.
func heredocs(ic *instructions.RunCommand, e *graph.Exec) (args []string, note string, err error) {
	if len(ic.Files) == 0 {
		return ic.CmdLine, "", nil
	}
	if len(ic.CmdLine) != 1 || !ic.PrependShell {
		return nil, "", fmt.Errorf("parsing produced an invalid run command: %v", ic.CmdLine)
	}
	first := ic.Files[0]
	if parser.MustParseHeredoc(ic.CmdLine[0]) == nil {
		var b strings.Builder
		b.WriteString(ic.CmdLine[0])
		for _, f := range ic.Files {
			b.WriteString("\n" + f.Data + f.Name)
		}
		return []string{b.String()}, "", nil
	}
	lines := strings.Split(strings.ReplaceAll(strings.TrimSpace(first.Data), "\r\n", "\n"), "\n")
	note = " (" + lines[0]
	if len(lines) > 1 {
		note += "..."
	}
	note += ")"
	data := first.Data
	if first.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if !strings.HasPrefix(data, "#!") {
		return []string{data}, note, nil
	}
	// The program itself is run, not the shell's idea of it; the shell still
	// comes first, as BuildKit has it.
	const dir = "/dev/pipes"
	e.Mounts = append(e.Mounts, graph.Mount{
		Type: graph.MountFiles, Target: dir, From: graph.None, ReadOnly: true,
		Files: []graph.File{{Name: first.Name, Data: []byte(data), Mode: 0o755}},
	})
	return []string{path.Join(dir, first.Name)}, note, nil
}

// mounts reads RUN --mount into e. agent is where the first agent's socket is.
func (c *converter) mounts(s *stage, ic *instructions.RunCommand, from []*stage, e *graph.Exec) (agent string, err error) {
	agents := 0
	for i, m := range instructions.GetMounts(ic) {
		switch m.Type {
		case instructions.MountTypeSecret:
			err = c.secret(s, ic, m, e)
		case instructions.MountTypeSSH:
			var target string
			if target, err = c.agent(s, ic, m, e, agents); agent == "" {
				agent = target
			}
			agents++
		default:
			err = c.mount(s, m, from[i], e)
		}
		if err != nil {
			return "", err
		}
	}
	return agent, nil
}

func owner(m *instructions.Mount) (uid, gid, mode *uint32) {
	small := func(v *uint64) *uint32 {
		if v == nil {
			return nil
		}
		n := uint32(*v) // the parser allows 32 bits
		return &n
	}
	return small(m.UID), small(m.GID), small(m.Mode)
}

// mount is a bind, a cache or a tmpfs.
func (c *converter) mount(s *stage, m *instructions.Mount, from *stage, e *graph.Exec) error {
	out := graph.Mount{Type: graph.MountType(m.Type), From: graph.None, ReadOnly: m.ReadOnly, Source: path.Join("/", m.Source)}
	out.UID, out.GID, out.Mode = owner(m)
	out.Target = path.Clean(m.Target)
	if !path.IsAbs(out.Target) {
		out.Target = path.Join("/", s.cwd, m.Target)
	}
	if out.Target == "/" {
		return fmt.Errorf("invalid mount target %q", out.Target)
	}
	if from != nil && !from.done {
		return fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
	}
	switch m.Type {
	case instructions.MountTypeTmpfs:
		out.Size, out.Source = m.SizeLimit, ""
	case instructions.MountTypeCache:
		out.ID = m.CacheID
		if out.ID == "" {
			out.ID = path.Clean(m.Target)
		}
		out.ID = c.opts.BuildArgs["BUILDKIT_CACHE_MOUNT_NS"] + "/" + out.ID
		out.Sharing = graph.Shared
		if m.CacheSharing != "" {
			out.Sharing = graph.Sharing(m.CacheSharing)
		}
		if from != nil {
			out.From = from.node
		}
	default:
		out.From = c.source(from)
	}
	e.Mounts = append(e.Mounts, out)
	return nil
}

// source is what COPY and binds read: a stage, or the context.
func (c *converter) source(from *stage) graph.ID {
	if from == nil {
		return c.contextNode()
	}
	return from.node
}

func (c *converter) secret(s *stage, ic *instructions.RunCommand, m *instructions.Mount, e *graph.Exec) error {
	id := m.CacheID
	if m.Source != "" {
		id = m.Source
	}
	if id == "" {
		if m.Target == "" {
			return errors.New("one of source, target required")
		}
		id = path.Base(m.Target)
	}
	s.outline.addSecret(id, m.Required, ic.Location())
	if m.Env != nil {
		e.Secrets = append(e.Secrets, graph.SecretEnv{ID: id, Name: *m.Env, Required: m.Required})
		if m.Target == "" {
			return nil
		}
	}
	out := graph.Mount{Type: graph.MountSecret, From: graph.None, ID: id, Target: m.Target, Required: m.Required}
	if out.Target == "" {
		out.Target = "/run/secrets/" + path.Base(id)
	}
	if !path.IsAbs(out.Target) {
		out.Target = path.Join("/", s.cwd, out.Target)
	}
	out.Target = path.Clean(out.Target)
	out.UID, out.GID, out.Mode = owner(m)
	e.Mounts = append(e.Mounts, out)
	return nil
}

func (c *converter) agent(s *stage, ic *instructions.RunCommand, m *instructions.Mount, e *graph.Exec, n int) (string, error) {
	if m.Source != "" {
		return "", errors.New("ssh does not support source")
	}
	out := graph.Mount{Type: graph.MountSSH, From: graph.None, ID: m.CacheID, Target: m.Target, Required: m.Required}
	if out.ID == "" {
		out.ID = "default"
	}
	if out.Target == "" {
		out.Target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", n)
	}
	if !path.IsAbs(out.Target) {
		out.Target = path.Join("/", s.cwd, out.Target)
	}
	out.UID, out.GID, out.Mode = owner(m)
	s.outline.addSSH(out.ID, m.Required, ic.Location())
	e.Mounts = append(e.Mounts, out)
	return out.Target, nil
}

// withArgs is a command for the history, with the build arguments that it saw:
// "|2 A=1 B=2 /bin/sh -c make".
func withArgs(args []string, s *stage) string {
	var list []string
	at := map[string]int{}
	for _, a := range s.args {
		v, ok := s.env.Get(a.Key)
		if !ok {
			v = a.ValueString()
		}
		if i, ok := at[a.Key]; ok {
			list[i] = a.Key + "=" + v
			continue
		}
		at[a.Key] = len(list)
		list = append(list, a.Key+"="+v)
	}
	line := strings.Join(args, " ")
	if len(list) > 0 {
		line = fmt.Sprintf("|%d %s %s", len(list), strings.Join(list, " "), line)
	}
	return line
}
