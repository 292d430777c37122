package dockerfile

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"cais.dev/cais/pkg/build/gitref"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/oci"
)

// copying is a COPY or an ADD.
type copying struct {
	instructions.SourcesAndDest
	verb         string
	cmd          instructions.Command
	chown, chmod string
	exclude      []string
	link         bool
	parents      bool
	checksum     string
	keepGit      *bool
	unpack       *bool
	from         *stage // nil: the context
}

// copy makes the node of a COPY or an ADD, with --link two.
func (c *converter) copy(s *stage, cmd command, lint *linter.Linter) error {
	var k copying
	switch ic := cmd.Command.(type) {
	case *instructions.CopyCommand:
		k = copying{
			SourcesAndDest: ic.SourcesAndDest, verb: "COPY", cmd: ic, chown: ic.Chown, chmod: ic.Chmod,
			exclude: ic.ExcludePatterns, link: ic.Link, parents: ic.Parents,
		}
		if len(cmd.from) > 0 {
			if k.from = cmd.from[0]; !k.from.done {
				return fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", ic.From, s.name)
			}
		}
	case *instructions.AddCommand:
		k = copying{
			SourcesAndDest: ic.SourcesAndDest, verb: "ADD", cmd: ic, chown: ic.Chown, chmod: ic.Chmod,
			exclude: ic.ExcludePatterns, link: ic.Link, checksum: ic.Checksum, keepGit: ic.KeepGitDir, unpack: ic.Unpack,
		}
	}
	if k.chmod != "" {
		if _, err := graph.ParseMode(k.chmod); err != nil {
			return err
		}
	}
	if err := k.checkChecksum(); err != nil {
		return err
	}
	text, _ := cmd.Command.(fmt.Stringer)
	shown := upper(c.shown(text.String(), s.env))
	name := c.prefix(s, shown)

	op := &graph.Copy{On: s.node, Dest: dest(s.cwd, k.DestPath), Chown: ownerOf(k.chown), Chmod: k.chmod, Parents: k.parents, Exclude: k.exclude}
	history := k.history()
	for _, src := range k.SourcePaths {
		from, err := c.copySource(&k, src, name, lint)
		if err != nil {
			return err
		}
		op.Sources = append(op.Sources, from)
	}
	for _, f := range k.SourceContents {
		op.Sources = append(op.Sources, graph.CopySource{
			From: graph.None, File: &graph.File{Name: path.Base(path.Join("/", f.Path)), Data: []byte(f.Data), Mode: 0o644},
		})
	}
	node := graph.Node{
		Op: op, Platform: *s.platform, NoCache: s.noCache, Epoch: c.epoch,
		Name: name, Stage: s.name, Command: history, Lines: toRanges(k.cmd.Location()),
	}
	// As BuildKit: with --chmod, --link has no effect.
	if k.link && k.chmod == "" && s.node != graph.None {
		on := s.node
		op.On = graph.None
		s.step--
		merge := node
		merge.Op = &graph.Merge{On: on, Layer: c.b.Add(node)}
		merge.Name = c.prefix(s, "LINK "+shown)
		node = merge
	}
	s.node = c.b.Add(node)
	s.layers = append(s.layers, s.node)
	c.commit(s, history+" # buildkit", true)
	return nil
}

// ownerOf has 0 for root, who is that everywhere, and for what is left empty.
func ownerOf(s string) string {
	if s == "" {
		return s
	}
	parts := strings.SplitN(s, ":", 2)
	for i, p := range parts {
		if p == "root" || p == "" {
			parts[i] = "0"
		}
	}
	return strings.Join(parts, ":")
}

// history is the line of the image's history.
func (k *copying) history() string {
	line := k.verb
	if k.parents {
		line += " --parents"
	}
	if k.chown != "" {
		line += " --chown=" + k.chown
	}
	if k.chmod != "" {
		line += " --chmod=" + k.chmod
	}
	for _, src := range k.SourcePaths {
		line += " " + src
	}
	for _, f := range k.SourceContents {
		line += " <<" + f.Path
	}
	return line + " " + k.DestPath
}

func (k *copying) checkChecksum() error {
	switch {
	case k.checksum == "":
		return nil
	case k.verb != "ADD":
		return errors.New("checksum can't be specified for COPY")
	case len(k.SourcePaths) != 1 || len(k.SourceContents) > 0:
		return errors.New("checksum can't be specified for multiple sources")
	case !isURL(k.SourcePaths[0]) && !isGit(k.SourcePaths[0]):
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	return nil
}

func isGit(src string) bool {
	r, err := gitref.Parse(src)
	return err == nil && !r.Bare
}

// isURL reports whether src is a file on a server. What ends in ".git" is a repository.
func isURL(src string) bool {
	return (strings.HasPrefix(src, "http://") || strings.HasPrefix(src, "https://")) && !isGit(src)
}

// dest is the absolute form of a destination, with the slash that says that it
// is a directory.
func dest(cwd, p string) string {
	slash := ""
	if p == "" || p == "." || strings.HasSuffix(p, "/") || strings.HasSuffix(p, "/.") || p == ".." || strings.HasSuffix(p, "/..") {
		slash = "/"
	}
	if !path.IsAbs(p) {
		p = path.Join("/", cwd, p)
	}
	p = path.Clean(p)
	if p == "/" {
		return p
	}
	return p + slash
}

// copySource is one source of k.
func (c *converter) copySource(k *copying, src, name string, lint *linter.Linter) (graph.CopySource, error) {
	git, err := gitref.Parse(src)
	switch {
	case err != nil && !errors.Is(err, gitref.ErrNot):
		return graph.CopySource{}, err
	case err == nil && !git.Bare:
		if k.verb != "ADD" {
			return graph.CopySource{}, errors.New("source can't be a git ref for COPY")
		}
		op, err := gitSource(git, k.keepGit, k.checksum)
		if err != nil {
			return graph.CopySource{}, err
		}
		return graph.CopySource{From: c.b.Add(graph.Node{Op: op, Name: name}), Path: "/", Literal: true}, nil
	case isURL(src):
		if k.verb != "ADD" {
			return graph.CopySource{}, errors.New("source can't be a URL for COPY")
		}
		op, err := httpSource(src, k.checksum)
		if err != nil {
			return graph.CopySource{}, err
		}
		out := graph.CopySource{From: c.b.Add(graph.Node{Op: op, Name: name}), Path: "/" + op.Filename, Literal: true}
		if k.unpack != nil && *k.unpack {
			out.Unpack = graph.UnpackAuto
		}
		return out, nil
	}
	if k.from == nil {
		c.lintIgnored(src, k, lint)
	}
	out := graph.CopySource{From: c.source(k.from), Path: path.Join("/", src), KeepOwner: k.from != nil && c.keepsOwner(k.from)}
	if k.parents {
		dir, what, ok := strings.Cut(src, "/./")
		if !ok {
			dir, what = "/", src
		}
		out.Path, out.Include = path.Join("/", dir), strings.TrimPrefix(path.Join("/", what), "/")
	}
	if k.verb == "ADD" && (k.unpack == nil || *k.unpack) {
		out.Unpack = graph.UnpackAuto
	}
	return out, nil
}

// keepsOwner reports whether files of s have owners that mean something.
func (c *converter) keepsOwner(s *stage) bool {
	if s.node == graph.None {
		return true
	}
	_, local := c.b.Node(s.node).Op.(*graph.Local)
	return !local
}

func gitSource(r gitref.Ref, keep *bool, checksum string) (*graph.Git, error) {
	if keep != nil && r.KeepDir != nil && *keep != *r.KeepDir {
		return nil, errors.New("inconsistent keep-git-dir configuration")
	}
	if r.KeepDir != nil {
		keep = r.KeepDir
	}
	if checksum != "" && r.Checksum != "" && checksum != r.Checksum {
		return nil, fmt.Errorf("checksum mismatch %q != %q", checksum, r.Checksum)
	}
	if r.Checksum != "" {
		checksum = r.Checksum
	}
	return &graph.Git{
		URL: r.Remote, Ref: r.Ref, Subdir: r.Subdir, Checksum: checksum, KeepDir: keep != nil && *keep,
		NoSubmodules: r.Submodules != nil && !*r.Submodules, CommitTimes: r.MTime == "commit", FetchByCommit: r.FetchByCommit,
	}, nil
}

func httpSource(src, checksum string) (*graph.HTTP, error) {
	op := &graph.HTTP{URL: src, Filename: "__unnamed__", Checksum: checksum}
	if u, err := url.Parse(src); err == nil {
		if base := path.Base(u.Path); base != "." && base != "/" && base != ".." {
			op.Filename = base
		}
	}
	if checksum != "" {
		if err := oci.ValidateDigest(checksum); err != nil {
			return nil, err
		}
	}
	return op, nil
}
