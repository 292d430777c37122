package source

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/sys"
)

// openGit returns a tree with the files of a commit. What was fetched once is not
// fetched again: the server is only asked which commit a name means.
func (s *Sources) openGit(ctx context.Context, op *graph.Git, step *progress.Step) (*Opened, error) {
	if _, err := exec.LookPath("git"); err != nil {
		return nil, errs.WithHint(errs.New(errs.Unsupported, "get "+redact(op.URL)+": there is no git here"), "Install git.")
	}
	if err := checkRemote(op); err != nil {
		return nil, err
	}
	g, err := s.newGit(ctx, op, step)
	if err != nil {
		return nil, err
	}
	defer g.close()
	o, err := g.open(ctx)
	if err != nil && ctx.Err() == nil {
		err = errs.E("get "+redact(op.URL), errs.KindOf(err), err)
	}
	return o, err
}

// checkRemote refuses what git would take for something else than an address:
// options, local paths, and its own "helper::" forms, which run programs.
func checkRemote(op *graph.Git) error {
	bad := func(why string) error {
		return errs.New(errs.Invalid, fmt.Sprintf("git repository %q: %s", redact(op.URL), why))
	}
	for _, v := range []string{op.URL, op.Ref, op.Checksum, op.Subdir} {
		if strings.HasPrefix(v, "-") {
			return bad("a part of it begins with a hyphen")
		}
		if strings.ContainsAny(v, "\n\r\x00") {
			return bad("it has a line break")
		}
	}
	if strings.Contains(op.URL, "::") && !strings.Contains(op.URL, "[") {
		return bad("remote helpers are not allowed")
	}
	if u, err := url.Parse(op.URL); err == nil && u.Scheme != "" && strings.Contains(op.URL, "://") {
		switch u.Scheme {
		case "http", "https", "ssh", "git":
			if strings.HasPrefix(u.Host, "-") || strings.HasPrefix(u.Path, "/-") && u.Scheme == "ssh" {
				return bad("a part of it begins with a hyphen")
			}
			return nil
		}
		return bad("unsupported scheme " + u.Scheme)
	}
	user, rest, ok := strings.Cut(op.URL, "@")
	host, p, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || strings.ContainsAny(user, "/:") || strings.HasPrefix(host, "-") || strings.HasPrefix(p, "-") {
		return bad("not an address")
	}
	return nil
}

// git runs git for one repository.
type git struct {
	s    *Sources
	op   *graph.Git
	step *progress.Step
	env  []string
	end  []func()
}

func (s *Sources) newGit(ctx context.Context, op *graph.Git, step *progress.Step) (*git, error) {
	g := &git{s: s, op: op, step: step}
	for _, kv := range s.o.Environ {
		k, _, _ := strings.Cut(kv, "=")
		switch k {
		case "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR",
			"GIT_NAMESPACE", "GIT_PREFIX", "GIT_CEILING_DIRECTORIES", "GIT_TEMPLATE_DIR", "GIT_ALLOW_PROTOCOL", "GIT_PROTOCOL_FROM_USER",
			"GIT_CONFIG_COUNT", "GIT_TERMINAL_PROMPT", "GIT_EXTERNAL_DIFF", "LC_ALL", "LANG", "LANGUAGE":
			continue // of a hook that calls us, or ours to set
		}
		g.env = append(g.env, kv)
	}
	g.env = append(g.env, "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=http:https:ssh:git", "GIT_PROTOCOL_FROM_USER=0", "LC_ALL=C")
	if !slices.ContainsFunc(g.env, func(kv string) bool {
		return strings.HasPrefix(kv, "GIT_SSH_COMMAND=") || strings.HasPrefix(kv, "GIT_SSH=")
	}) {
		g.env = append(g.env, "GIT_SSH_COMMAND=ssh -o BatchMode=yes")
	}
	if dir, ok, err := s.o.Agents.dir(s); err != nil {
		return nil, err
	} else if ok {
		sock, end, err := s.o.Agents.Listen(ctx, "default", dir)
		if err != nil {
			return nil, err
		}
		g.end = append(g.end, end)
		g.env = append(g.env, "SSH_AUTH_SOCK="+sock)
	}
	return g, g.config(ctx)
}

func (g *git) close() {
	for _, f := range g.end {
		f()
	}
}

// config hands git its settings by the environment: secrets are not to stand on
// a command line.
func (g *git) config(ctx context.Context) error {
	set := [][2]string{
		{"core.hooksPath", "/dev/null"}, {"core.fsmonitor", "false"}, {"init.defaultBranch", "main"}, {"advice.detachedHead", "false"},
		{"protocol.version", "2"}, {"gc.auto", "0"}, {"maintenance.auto", "false"}, {"core.autocrlf", "false"}, {"safe.directory", "*"},
	}
	if u, err := url.Parse(g.op.URL); err == nil && (u.Scheme == "http" || u.Scheme == "https") {
		header, err := g.s.gitHeader(ctx, u.Host)
		if err != nil {
			return err
		}
		if header != "" {
			set = append(set, [2]string{"http." + u.Scheme + "://" + u.Host + "/.extraheader", "Authorization: " + header})
		}
	}
	for i, kv := range set {
		n := strconv.Itoa(i)
		g.env = append(g.env, "GIT_CONFIG_KEY_"+n+"="+kv[0], "GIT_CONFIG_VALUE_"+n+"="+kv[1])
	}
	g.env = append(g.env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(set)))
	return nil
}

// gitHeader is what a secret has for a host.
func (s *Sources) gitHeader(ctx context.Context, host string) (string, error) {
	for _, suffix := range []string{"." + host, ""} {
		v, ok, err := s.o.Secrets.Get(ctx, "GIT_AUTH_HEADER"+suffix)
		if err != nil || ok {
			return strings.TrimSpace(string(v)), err
		}
		v, ok, err = s.o.Secrets.Get(ctx, "GIT_AUTH_TOKEN"+suffix)
		if err != nil {
			return "", err
		}
		if ok {
			return "basic " + base64.StdEncoding.EncodeToString([]byte("x-access-token:"+strings.TrimSpace(string(v)))), nil
		}
	}
	return "", nil
}

// run runs git in dir and returns what it wrote to stdout.
func (g *git) run(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	var out, errOut bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, g.env, &out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // with its ssh
	cmd.WaitDelay = 5 * time.Second
	if g.s.o.User != 0 && os.Geteuid() == 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: g.s.o.User, HostID: 0, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: g.s.o.Group, HostID: 0, Size: 1}}
	}
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil {
		text := strings.TrimSpace(errOut.String())
		if text == "" {
			text = err.Error()
		}
		return "", gitError(args[0], text)
	}
	return strings.TrimSpace(out.String()), nil
}

// gitError gives git's words a kind and, where it is known, what to do.
func gitError(what, text string) error {
	text = strings.ReplaceAll(text, "\n", "; ")
	kind, hint := errs.Unavailable, ""
	switch {
	case strings.Contains(text, "could not read Username") || strings.Contains(text, "Authentication failed"):
		kind, hint = errs.Denied, "Give a token by --secret id=GIT_AUTH_TOKEN,env=VARIABLE."
	case strings.Contains(text, "Permission denied (publickey"):
		kind, hint = errs.Denied, "Start ssh-agent with the key, or give it by --ssh default=FILE."
	case strings.Contains(text, "Host key verification failed"):
		kind, hint = errs.Denied, "Connect once with ssh, which asks about the host's key."
	case strings.Contains(text, "not found") || strings.Contains(text, "couldn't find remote ref"):
		kind = errs.NotFound
	case strings.Contains(text, "transport '") && strings.Contains(text, "not allowed"):
		kind = errs.Denied
	}
	err := errs.New(kind, "git "+what+": "+text)
	if hint != "" {
		return errs.WithHint(err, hint)
	}
	return err
}

func isCommit(s string) bool {
	if len(s) != 40 && len(s) != 64 {
		return false
	}
	return isHex(s)
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

// resolve asks which commit is meant, and by which full name it is fetched.
func (g *git) resolve(ctx context.Context) (commit, full string, err error) {
	if isCommit(g.op.Ref) {
		return g.op.Ref, g.op.Ref, nil
	}
	if g.op.FetchByCommit && isCommit(g.op.Checksum) {
		return g.op.Checksum, g.op.Checksum, nil
	}
	ref := g.op.Ref
	if ref == "" {
		ref = "HEAD"
	}
	wanted := []string{ref}
	if ref != "HEAD" && !strings.HasPrefix(ref, "refs/") {
		wanted = []string{"refs/heads/" + ref, "refs/tags/" + ref, "refs/" + ref}
	}
	args := []string{"ls-remote", "--", g.op.URL}
	for _, w := range wanted {
		args = append(args, w, w+"^{}")
	}
	out, err := g.run(ctx, "/", args...)
	if err != nil {
		return "", "", err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		sha, name, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && isCommit(sha) {
			found[name] = sha
		}
	}
	for _, w := range wanted {
		if sha := found[w]; sha != "" {
			if peeled := found[w+"^{}"]; peeled != "" {
				sha = peeled
			}
			return sha, w, nil
		}
	}
	return "", "", errs.New(errs.NotFound, fmt.Sprintf("repository does not contain ref %s", ref))
}

// open returns the tree of the commit, fetched unless it is here.
func (g *git) open(ctx context.Context) (*Opened, error) {
	commit, full, err := g.resolve(ctx)
	if err != nil {
		return nil, err
	}
	if sum := g.op.Checksum; sum != "" && !strings.HasPrefix(commit, sum) {
		return nil, errs.New(errs.Invalid, fmt.Sprintf("expected checksum to match %s, got %s", sum, commit))
	}
	id := name(g.op.URL, commit, fmt.Sprint(g.op.KeepDir, g.op.NoSubmodules, g.op.CommitTimes), keptName(g.op.KeepDir, full))
	dir, err := g.s.entry(ctx, "git", id)
	if err != nil {
		return nil, err
	}
	work := filepath.Join(dir, "work")
	cached, err := g.complete(ctx, dir, work, commit, full)
	if err != nil {
		return nil, err
	}
	at, err := subdir(work, g.op.Subdir)
	if err != nil {
		return nil, err
	}
	t, err := OpenTree(at, TreeOptions{IndexDir: filepath.Join(g.s.o.Dir, "index")})
	if err != nil {
		return nil, err
	}
	o := &Opened{Tree: t, ID: commit, Cached: cached}
	if fi, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		o.Time = fi.ModTime()
	}
	if data, err := os.ReadFile(filepath.Join(dir, "time")); err == nil {
		if n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64); err == nil {
			o.Time = time.Unix(n, 0).UTC()
		}
	}
	return o, nil
}

// complete checks the commit out unless that was done before.
func (g *git) complete(ctx context.Context, dir, work, commit, full string) (cached bool, err error) {
	l, err := fetching(ctx, dir)
	if err != nil {
		return false, err
	}
	defer l.Release()
	if _, err := os.Lstat(filepath.Join(dir, "complete")); err == nil {
		return true, nil
	}
	if err := removeAll(work); err != nil {
		return false, err
	}
	if err := g.checkout(ctx, work, commit, full); err != nil {
		return false, errors.Join(err, removeAll(work))
	}
	return false, os.WriteFile(filepath.Join(dir, "complete"), []byte(redact(g.op.URL)+"\n"+commit+"\n"), 0o600)
}

// keptName is part of a checkout that has its .git.
func keptName(keep bool, full string) string {
	if !keep {
		return ""
	}
	return full
}

// subdir is the directory below work, through links that stay in it.
func subdir(work, sub string) (string, error) {
	if sub == "" {
		return work, nil
	}
	t, err := OpenTree(work, TreeOptions{})
	if err != nil {
		return "", err
	}
	defer t.Close()
	real, err := t.Resolve(path.Clean("/" + sub)[1:])
	if err != nil {
		if isAbsent(err) {
			return "", errs.New(errs.NotFound, "the repository has no directory "+sub)
		}
		return "", err
	}
	e, err := t.stat(real)
	if err != nil {
		return "", err
	}
	if !e.IsDir() {
		return "", errs.New(errs.Invalid, sub+" of the repository is not a directory")
	}
	return filepath.Join(work, real), nil
}

// checkout makes work out of the commit.
func (g *git) checkout(ctx context.Context, work, commit, full string) error {
	if err := os.Mkdir(work, 0o755); err != nil {
		return err
	}
	g.step.Item("fetching "+commit[:min(12, len(commit))], 0, 0)
	// Templates would bring hooks; a format for 64 digits needs to be asked for.
	args := []string{"init", "--quiet", "--template="}
	if len(commit) == 64 {
		args = append(args, "--object-format=sha256")
	}
	if _, err := g.run(ctx, work, args...); err != nil {
		return err
	}
	if _, err := g.run(ctx, work, "remote", "add", "origin", g.op.URL); err != nil {
		return err
	}
	if err := g.fetch(ctx, work, commit, full); err != nil {
		return err
	}
	if branch, ok := strings.CutPrefix(full, "refs/heads/"); ok && g.op.KeepDir {
		args = []string{"checkout", "--quiet", "--force", "-B", branch, commit}
	} else {
		args = []string{"checkout", "--quiet", "--force", "--detach", commit}
	}
	if _, err := g.run(ctx, work, args...); err != nil {
		return err
	}
	if !g.op.NoSubmodules {
		if _, err := os.Lstat(filepath.Join(work, ".gitmodules")); err == nil {
			update := []string{"submodule", "--quiet", "update", "--init", "--recursive"}
			_, err := g.run(ctx, work, append(update, "--depth=1")...)
			if err != nil && ctx.Err() == nil { // a server of plain files gives all or nothing
				_, err = g.run(ctx, work, update...)
			}
			if err != nil {
				return err
			}
		}
	}
	when, err := g.run(ctx, work, "show", "--no-patch", "--no-show-signature", "--format=%ct", commit)
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(when, 10, 64)
	if err != nil {
		return fmt.Errorf("git show: no time in %q", when)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(work), "time"), []byte(when), 0o600); err != nil {
		return err
	}
	g.step.ItemDone("fetching "+commit[:min(12, len(commit))], 0)
	return g.tidy(work, time.Unix(seconds, 0))
}

// fetch gets the commit, alone if the server lets itself be asked for it.
func (g *git) fetch(ctx context.Context, work, commit, full string) error {
	_, err := g.run(ctx, work, "fetch", "--quiet", "--depth=1", "--no-tags", "--no-write-fetch-head", "origin", commit)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if full != commit { // its name is advertised in any case
		if _, err2 := g.run(ctx, work, "fetch", "--quiet", "--depth=1", "--no-tags", "--force", "origin", "+"+full+":refs/cais/fetched"); err2 == nil {
			if _, err2 = g.run(ctx, work, "cat-file", "-e", commit+"^{commit}"); err2 == nil {
				return nil
			}
		}
	}
	if _, err2 := g.run(ctx, work, "fetch", "--quiet", "--tags", "--force", "origin", "+refs/*:refs/cais/*"); err2 != nil {
		return err // the first reason says more
	}
	if _, err2 := g.run(ctx, work, "cat-file", "-e", commit+"^{commit}"); err2 != nil {
		return errs.New(errs.NotFound, "repository does not contain ref "+commit)
	}
	return nil
}

// tidy gives files the modes that git means, whatever the umask, drops .git
// unless it is wanted, and sets the commit's time if that is.
func (g *git) tidy(work string, when time.Time) error {
	var dirs []string
	err := filepath.WalkDir(work, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" && !g.op.KeepDir {
			if err := removeAll(p); err != nil {
				return err
			}
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		switch {
		case d.IsDir():
			dirs = append(dirs, p)
			return os.Chmod(p, 0o755)
		case d.Type().IsRegular():
			fi, err := d.Info()
			if err != nil {
				return err
			}
			mode := fs.FileMode(0o644)
			if fi.Mode()&0o111 != 0 {
				mode = 0o755
			}
			if err := os.Chmod(p, mode); err != nil {
				return err
			}
		}
		if g.op.CommitTimes {
			return setTime(p, when)
		}
		return nil
	})
	if err != nil || !g.op.CommitTimes {
		return err
	}
	for _, d := range slices.Backward(dirs) {
		if err := setTime(d, when); err != nil {
			return err
		}
	}
	return nil
}

func setTime(p string, t time.Time) error {
	return sys.SetTimesAt(unix.AT_FDCWD, p, unix.NsecToTimespec(t.UnixNano()))
}
