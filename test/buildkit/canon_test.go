package fidelity

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"path"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"cais.dev/cais/pkg/build/graph"
)

// canon is a graph in words that both sides are put into: a line for each node, in
// which inputs stand as the first letters of their lines' digests. Equal nodes
// have equal lines.
type canon struct {
	lines []string
	names map[string]string // line to what the progress view says
}

func (c *canon) add(line, name string) string {
	sum := sha256.Sum256([]byte(line))
	id := fmt.Sprintf("%x", sum[:4])
	if !slices.Contains(c.lines, id+" "+line) {
		c.lines = append(c.lines, id+" "+line)
		c.names[id+" "+line] = name
	}
	return id
}

const none = "-"

// ours puts a graph of ours into words.
func ours(g *graph.Graph, r graph.Result) *canon {
	c := &canon{names: map[string]string{}}
	ids := map[graph.ID]string{graph.None: none}
	var visit func(id graph.ID) string
	visit = func(id graph.ID) string {
		if s, ok := ids[id]; ok {
			return s
		}
		n := g.Nodes[id]
		for _, in := range n.Op.Inputs() {
			visit(in)
		}
		tail := ""
		if n.NoCache {
			tail = " nocache"
		}
		switch op := n.Op.(type) {
		case *graph.Image:
			// Named contexts of BuildKit have no digest here.
			ids[id] = c.add(fmt.Sprintf("image %s %s", strings.Split(op.Ref, "@")[0], n.Platform), n.Name)
		case *graph.Local:
			ids[id] = c.add("local "+op.Name, n.Name)
		case *graph.Git:
			ids[id] = c.add(fmt.Sprintf("git %s ref=%s dir=%s sum=%s keep=%v nosub=%v fetch=%v", op.URL, op.Ref, op.Subdir, op.Checksum, op.KeepDir, op.NoSubmodules, op.FetchByCommit), n.Name)
		case *graph.HTTP:
			ids[id] = c.add(fmt.Sprintf("http %s name=%s sum=%s", op.URL, op.Filename, op.Checksum), n.Name)
		case *graph.Exec:
			ids[id] = c.add(ourExec(op, n, ids)+tail, n.Name)
		case *graph.Mkdir:
			ids[id] = c.add(fmt.Sprintf("mkdir on=%s %s mode=%o user=%s time=%s", ids[op.On], op.Path, op.Mode, ourOwner(op.User), ourTime(n)), n.Name)
		case *graph.Merge:
			ids[id] = c.add(fmt.Sprintf("merge %s %s%s", ids[op.On], ids[op.Layer], tail), n.Name)
		case *graph.Copy:
			// FROM a context: BuildKit has the files themselves as the root.
			if strings.HasPrefix(n.Command, "FROM ") {
				ids[id] = ids[op.Sources[0].From]
				break
			}
			ids[id] = c.add(ourCopy(op, ids)+tail, n.Name)
		}
		return ids[id]
	}
	visit(r.Node)
	return c
}

// ourOwner has root as 0, and numbers in their shortest form.
func ourOwner(s string) string {
	parts := strings.SplitN(s, ":", 2)
	for i, p := range parts {
		if p == "root" {
			parts[i] = "0"
		} else if n, err := strconv.ParseUint(p, 10, 32); err == nil {
			parts[i] = fmt.Sprint(n)
		}
	}
	return strings.Join(parts, ":")
}

func ourTime(n graph.Node) string {
	if n.Epoch == nil {
		return none
	}
	return fmt.Sprint(n.Epoch.UnixNano())
}

func ourExec(e *graph.Exec, n graph.Node, ids map[graph.ID]string) string {
	var mounts []string
	perm := func(m graph.Mount, def uint32) string {
		v := [3]uint32{0, 0, def}
		for i, p := range []*uint32{m.UID, m.GID, m.Mode} {
			if p != nil {
				v[i] = *p
			}
		}
		return fmt.Sprintf("%d:%d:%o", v[0], v[1], v[2])
	}
	secrets := []string{}
	for _, m := range e.Mounts {
		line := fmt.Sprintf("{%s %s", m.Type, m.Target)
		switch m.Type {
		case graph.MountBind:
			line += fmt.Sprintf(" %s:%s ro=%v", ids[m.From], m.Source, m.ReadOnly)
		case graph.MountFiles:
			line = fmt.Sprintf("{bind %s files:%x:%o:%s ro=true", m.Target, m.Files[0].Data, m.Files[0].Mode, m.Files[0].Name)
		case graph.MountCache:
			from := ids[m.From] + ":" + m.Source
			if m.Source == "/" && (m.UID != nil || m.GID != nil || m.Mode != nil) {
				from += " made " + perm(m, 0o755)
			}
			line += fmt.Sprintf(" %s id=%s %s ro=%v", from, m.ID, m.Sharing, m.ReadOnly)
		case graph.MountTmpfs:
			line += fmt.Sprintf(" size=%d", m.Size)
		case graph.MountSecret:
			line += fmt.Sprintf(" id=%s %s required=%v", m.ID, perm(m, 0o400), m.Required)
		case graph.MountSSH:
			line += fmt.Sprintf(" id=%s %s required=%v", m.ID, perm(m, 0o600), m.Required)
		}
		mounts = append(mounts, line+"}")
	}
	if e.ShmSize > 0 {
		mounts = append(mounts, fmt.Sprintf("{tmpfs /dev/shm size=%d}", e.ShmSize))
	}
	for _, s := range e.Secrets {
		secrets = append(secrets, fmt.Sprintf("%s=%s required=%v", s.Name, s.ID, s.Required))
	}
	sort.Strings(mounts)
	net := string(e.Network)
	proxy := slices.Clone(e.Proxy)
	sort.Strings(proxy)
	var hosts, limits []string
	for _, h := range e.Hosts {
		hosts = append(hosts, h.Name+"="+h.IP)
	}
	for _, u := range e.Ulimits {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	return fmt.Sprintf("exec on=%s %s args=%q env=%q cwd=%s user=%q host=%s net=%s insecure=%v hosts=%q limits=%q cgroup=%s mounts=%s secrets=%q proxy=%q",
		ids[e.Root], n.Platform, e.Args, e.Env, path.Clean(e.Cwd), e.User, e.Hostname, net, e.Insecure, hosts, limits, e.CgroupParent, mounts, secrets, proxy)
}

func ourCopy(op *graph.Copy, ids map[graph.ID]string) string {
	line := "copy on=" + ids[op.On]
	for _, s := range op.Sources {
		chmod, sym := "-1", ""
		if op.Chmod != "" {
			if n, err := strconv.ParseUint(op.Chmod, 8, 32); err == nil {
				chmod = fmt.Sprintf("%o", n)
			} else {
				sym = op.Chmod
			}
		}
		src := ids[s.From] + ":" + s.Path
		if s.File != nil {
			src = fmt.Sprintf("files:%x:%o:%s", s.File.Data, s.File.Mode, s.File.Name)
		}
		line += fmt.Sprintf(" {%s to=%s own=%s mode=%s%s literal=%v unpack=%v include=%q exclude=%q}",
			src, op.Dest, ourOwner(op.Chown), chmod, sym, s.Literal || s.File != nil, s.Unpack == graph.UnpackAuto, s.Include, op.Exclude)
	}
	return line
}

// theirs puts a definition of BuildKit's into the same words.
func theirs(def *llb.Definition) (*canon, error) {
	c := &canon{names: map[string]string{}}
	ops := map[string]*pb.Op{}
	var last string
	for _, dt := range def.Def {
		var op pb.Op
		if err := proto.Unmarshal(dt, &op); err != nil {
			return nil, err
		}
		last = fmt.Sprintf("sha256:%x", sha256.Sum256(dt))
		ops[last] = &op
	}
	if last == "" {
		return c, nil
	}
	name := map[string]string{}
	nocache := map[string]bool{}
	for d, m := range def.Metadata {
		name[string(d)] = m.Description["llb.customname"]
		nocache[string(d)] = m.IgnoreCache
	}
	w := walker{c: c, ops: ops, ids: map[string]string{}, name: name, nocache: nocache}
	final := ops[last]
	if len(final.Inputs) > 0 {
		if _, err := w.visit(final.Inputs[0].Digest); err != nil {
			return nil, err
		}
	}
	return c, nil
}

type walker struct {
	c       *canon
	ops     map[string]*pb.Op
	ids     map[string]string
	name    map[string]string
	nocache map[string]bool
}

func (w *walker) visit(d string) (string, error) {
	if id, ok := w.ids[d]; ok {
		return id, nil
	}
	op := w.ops[d]
	if f := inline(op); f != "" {
		w.ids[d] = f
		return f, nil
	}
	ins := make([]string, len(op.Inputs))
	for i, in := range op.Inputs {
		id, err := w.visit(in.Digest)
		if err != nil {
			return "", err
		}
		ins[i] = id
	}
	input := func(i int64) string {
		if i < 0 {
			return none
		}
		return ins[i]
	}
	tail := ""
	if w.nocache[d] {
		tail = " nocache"
	}
	line := ""
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		line = source(o.Source, op.Platform)
	case *pb.Op_Exec:
		line = w.exec(o.Exec, op, ins, input) + tail
	case *pb.Op_Merge:
		line = "merge"
		for _, in := range o.Merge.Inputs {
			line += " " + input(in.Input)
		}
		line += tail
	case *pb.Op_File:
		line = file(o.File, input) + tail
	default:
		return "", fmt.Errorf("operation %T", op.Op)
	}
	w.ids[d] = w.c.add(line, w.name[d])
	return w.ids[d], nil
}

// inline is "files:…" for an operation that only makes one file, and "made:…" for
// the directory that a cache with an owner begins with.
func inline(op *pb.Op) string {
	f, ok := op.Op.(*pb.Op_File)
	if !ok || len(f.File.Actions) != 1 || len(op.Inputs) > 0 {
		return ""
	}
	if m := f.File.Actions[0].GetMkfile(); m != nil {
		return fmt.Sprintf("files:%x:%o:%s", m.Data, m.Mode, strings.TrimPrefix(m.Path, "/"))
	}
	return ""
}

func platform(p *pb.Platform) string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

func source(s *pb.SourceOp, p *pb.Platform) string {
	scheme, rest, _ := strings.Cut(s.Identifier, "://")
	switch scheme {
	case "docker-image":
		return fmt.Sprintf("image %s %s", strings.Split(rest, "@")[0], platform(p))
	case "local":
		return "local " + rest
	case "git":
		_, frag, _ := strings.Cut(s.Identifier, "#")
		ref, dir, _ := strings.Cut(frag, ":")
		a := s.Attrs
		return fmt.Sprintf("git %s ref=%s dir=%s sum=%s keep=%v nosub=%v fetch=%v", a[pb.AttrFullRemoteURL], ref, dir, a[pb.AttrGitChecksum],
			a[pb.AttrKeepGitDir] == "true", a[pb.AttrGitSkipSubmodules] == "true", a[pb.AttrGitFetchByCommit] == "true")
	case "http", "https":
		return fmt.Sprintf("http %s name=%s sum=%s", s.Identifier, s.Attrs[pb.AttrHTTPFilename], s.Attrs[pb.AttrHTTPChecksum])
	}
	return s.Identifier
}

func (w *walker) exec(e *pb.ExecOp, op *pb.Op, ins []string, input func(int64) string) string {
	root := none
	var mounts []string
	for _, m := range e.Mounts {
		if m.Dest == "/" {
			root = input(m.Input)
			continue
		}
		line := ""
		from := input(m.Input)
		selector := path.Join("/", m.Selector)
		switch m.MountType {
		case pb.MountType_BIND:
			line = fmt.Sprintf("{bind %s %s:%s ro=%v", path.Clean(m.Dest), from, selector, m.Readonly)
			if strings.HasPrefix(from, "files:") {
				line = fmt.Sprintf("{bind %s %s ro=%v", path.Clean(m.Dest), from, m.Readonly)
			}
		case pb.MountType_CACHE:
			made := ""
			if m.Input >= 0 {
				if f, ok := w.ops[op.Inputs[m.Input].Digest].Op.(*pb.Op_File); ok && len(f.File.Actions) == 1 && selector == "/cache" {
					if d := f.File.Actions[0].GetMkdir(); d != nil && d.Path == "/cache" {
						made = fmt.Sprintf(" made %d:%d:%o", d.Owner.User.GetByID(), d.Owner.Group.GetByID(), d.Mode)
						from, selector = none, "/"
						if in := w.ops[op.Inputs[m.Input].Digest].Inputs; len(in) > 0 {
							from = w.ids[in[0].Digest]
						}
						w.c.drop(ins[m.Input])
					}
				}
			}
			sharing := map[pb.CacheSharingOpt]string{pb.CacheSharingOpt_SHARED: "shared", pb.CacheSharingOpt_PRIVATE: "private", pb.CacheSharingOpt_LOCKED: "locked"}[m.CacheOpt.Sharing]
			line = fmt.Sprintf("{cache %s %s:%s%s id=%s %s ro=%v", path.Clean(m.Dest), from, selector, made, m.CacheOpt.ID, sharing, m.Readonly)
		case pb.MountType_TMPFS:
			line = fmt.Sprintf("{tmpfs %s size=%d", path.Clean(m.Dest), m.TmpfsOpt.GetSize())
		case pb.MountType_SECRET:
			s := m.SecretOpt
			line = fmt.Sprintf("{secret %s id=%s %d:%d:%o required=%v", path.Clean(m.Dest), s.ID, s.Uid, s.Gid, s.Mode, !s.Optional)
		case pb.MountType_SSH:
			s := m.SSHOpt
			id := s.ID
			if id == "" {
				id = "default"
			}
			line = fmt.Sprintf("{ssh %s id=%s %d:%d:%o required=%v", path.Clean(m.Dest), id, s.Uid, s.Gid, s.Mode, !s.Optional)
		}
		mounts = append(mounts, line+"}")
	}
	sort.Strings(mounts)
	secrets := []string{}
	for _, s := range e.Secretenv {
		secrets = append(secrets, fmt.Sprintf("%s=%s required=%v", s.Name, s.ID, !s.Optional))
	}
	host := e.Meta.Hostname
	if host == "" {
		host = "buildkitsandbox"
	}
	var hosts, limits, proxy []string
	for _, h := range e.Meta.ExtraHosts {
		hosts = append(hosts, h.Host+"="+h.IP)
	}
	for _, u := range e.Meta.Ulimit {
		limits = append(limits, fmt.Sprintf("%s=%d:%d", u.Name, u.Soft, u.Hard))
	}
	if p := e.Meta.ProxyEnv; p != nil {
		for k, v := range map[string]string{"http_proxy": p.HttpProxy, "https_proxy": p.HttpsProxy, "ftp_proxy": p.FtpProxy, "no_proxy": p.NoProxy, "all_proxy": p.AllProxy} {
			if v != "" {
				proxy = append(proxy, k+"="+v, strings.ToUpper(k)+"="+v)
			}
		}
	}
	sort.Strings(proxy)
	net := map[pb.NetMode]string{pb.NetMode_UNSET: "", pb.NetMode_HOST: "host", pb.NetMode_NONE: "none"}[e.Network]
	return fmt.Sprintf("exec on=%s %s args=%q env=%q cwd=%s user=%q host=%s net=%s insecure=%v hosts=%q limits=%q cgroup=%s mounts=%s secrets=%q proxy=%q",
		root, platform(op.Platform), e.Meta.Args, e.Meta.Env, path.Clean(e.Meta.Cwd), e.Meta.User, host, net, e.Security == pb.SecurityMode_INSECURE, hosts, limits, e.Meta.CgroupParent, mounts, secrets, proxy)
}

// drop takes back the line of a node that is a part of another on our side.
func (c *canon) drop(id string) {
	c.lines = slices.DeleteFunc(c.lines, func(l string) bool { return strings.HasPrefix(l, id+" ") })
}

func owner(o *pb.ChownOpt) string {
	part := func(u *pb.UserOpt) (string, bool) {
		if u == nil {
			return "", false
		}
		switch v := u.User.(type) {
		case *pb.UserOpt_ByID:
			return fmt.Sprint(v.ByID), true
		case *pb.UserOpt_ByName:
			return v.ByName.Name, true
		}
		return "", false
	}
	if o == nil {
		return ""
	}
	u, _ := part(o.User)
	if g, ok := part(o.Group); ok {
		return u + ":" + g
	}
	return u
}

func file(f *pb.FileOp, input func(int64) string) string {
	if d := f.Actions[0].GetMkdir(); d != nil && len(f.Actions) == 1 {
		t := none
		if d.Timestamp > 0 {
			t = fmt.Sprint(d.Timestamp)
		}
		return fmt.Sprintf("mkdir on=%s %s mode=%o user=%s time=%s", input(f.Actions[0].Input), path.Clean(d.Path), d.Mode, owner(d.Owner), t)
	}
	line := ""
	for i, a := range f.Actions {
		c := a.GetCopy()
		if c == nil {
			return fmt.Sprintf("file action %v", a)
		}
		if i == 0 {
			line = "copy on=" + input(a.Input)
		}
		from := input(a.SecondaryInput)
		if !strings.HasPrefix(from, "files:") {
			from += ":" + path.Clean("/"+c.Src)
		}
		mode := "-1"
		if c.Mode != -1 && c.ModeStr == "" {
			mode = fmt.Sprintf("%o", c.Mode)
		}
		include := ""
		if len(c.IncludePatterns) > 0 {
			include = path.Clean(c.IncludePatterns[0])
		}
		line += fmt.Sprintf(" {%s to=%s own=%s mode=%s%s literal=%v unpack=%v include=%q exclude=%q}",
			from, dest(c.Dest), owner(c.Owner), mode, c.ModeStr, !c.AllowWildcard, c.AttemptUnpackDockerCompatibility, include, c.ExcludePatterns)
	}
	return line
}

// dest is clean, with a slash at its end if it says that it is a directory.
func dest(p string) string {
	slash := strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.")
	p = path.Clean(p)
	if slash && p != "/" {
		p += "/"
	}
	return p
}

// differ lists the lines that only one side has.
func differ(a, b *canon) string {
	var out []string
	for _, l := range a.lines {
		if !slices.Contains(b.lines, l) {
			out = append(out, "  ours:   "+l)
		}
	}
	for _, l := range b.lines {
		if !slices.Contains(a.lines, l) {
			out = append(out, "  theirs: "+l)
		}
	}
	for _, l := range slices.Sorted(maps.Keys(a.names)) {
		// The numbers of steps differ where BuildKit counts stages of its own
		// making, and twins have the name of whoever came first.
		if n, ok := b.names[l]; ok && step(n) != step(a.names[l]) && !strings.Contains(l, " local ") {
			out = append(out, fmt.Sprintf("  name: %q, theirs %q", a.names[l], n))
		}
	}
	return strings.Join(out, "\n")
}

// step is a name without its place.
func step(name string) string {
	if strings.HasPrefix(name, "[context ") {
		return ""
	}
	if strings.HasPrefix(name, "[") {
		_, name, _ = strings.Cut(name, "] ")
	}
	return strings.TrimPrefix(strings.Split(name, "@sha256:")[0], "FROM ")
}
