package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"cais.dev/cais/pkg/build/gitref"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/ignore"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/build/source"
	"cais.dev/cais/pkg/errs"
)

// root is a context before its ignore file is read.
type root struct {
	dir    string // where its files are
	text   []byte // a Dockerfile instead of files
	remote bool   // its files are somebody else's: nothing of it is followed out of it
	opened *source.Opened
}

// load opens the context and reads the Dockerfile.
func (j *job) load(ctx context.Context) error {
	r, err := j.root(ctx)
	if err != nil {
		return err
	}
	if err := j.readDockerfile(ctx, r); err != nil {
		return err
	}
	if r.dir == "" { // a Dockerfile alone
		empty, err := j.sources.Scratch()
		if err != nil {
			return err
		}
		r.dir = empty
	}
	patterns, err := j.readIgnore(r)
	if err != nil {
		return err
	}
	matcher, err := ignore.New(patterns)
	if err != nil {
		return err
	}
	j.sources.Add("context", func(context.Context, *progress.Step) (*source.Opened, error) {
		o, err := j.sources.Directory(r.dir, source.TreeOptions{Ignore: matcher})
		if err == nil && r.opened != nil {
			o.ID, o.Time = r.opened.ID, r.opened.Time
		}
		return o, err
	})
	for name, value := range j.named {
		if strings.HasPrefix(value, "docker-image://") || strings.HasPrefix(value, "oci-layout://") || strings.HasPrefix(value, "target:") {
			continue
		}
		j.sources.Add(name, func(ctx context.Context, step *progress.Step) (*source.Opened, error) {
			return j.openNamed(ctx, name, value, step)
		})
	}
	return nil
}

// root finds out what the context is, and gets it.
func (j *job) root(ctx context.Context) (root, error) {
	switch ref, err := gitref.Parse(j.context); {
	case j.context == "-":
		return j.stream(ctx, j.s.In)
	case err == nil && !(ref.Bare && exists(j.context)):
		return j.git(ctx, ref)
	case !errors.Is(err, gitref.ErrNot) && err != nil:
		return root{}, errs.E("unable to prepare context", errs.Invalid, err)
	case isURL(j.context):
		body, err := j.sources.Get(ctx, j.context)
		if err != nil {
			return root{}, err
		}
		defer body.Close()
		return j.stream(ctx, body)
	}
	dir, err := directory(j.context)
	return root{dir: dir}, err
}

func isURL(s string) bool { return strings.HasPrefix(s, "http://") || strings.HasPrefix(s, "https://") }

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// directory returns a local context's full path.
func directory(p string) (string, error) {
	fi, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errs.New(errs.NotFound, fmt.Sprintf("unable to prepare context: path %q not found", p))
	}
	if err != nil {
		return "", fmt.Errorf("unable to prepare context: %w", err)
	}
	if !fi.IsDir() {
		return "", errs.New(errs.Invalid, "unable to prepare context: context must be a directory: "+p)
	}
	abs, err := filepath.Abs(p)
	if err != nil {
		return "", fmt.Errorf("unable to prepare context: %w", err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	return abs, nil
}

func (j *job) stream(ctx context.Context, r io.Reader) (_ root, err error) {
	s, err := j.sources.Stream(ctx, r)
	if err != nil || s.Dir != "" { // a Dockerfile alone is read in no time
		j.log.Step("[internal] load remote build context").Done(err)
	}
	if err != nil {
		return root{}, err
	}
	return root{dir: s.Dir, text: s.Text, remote: true}, nil
}

func (j *job) git(ctx context.Context, ref gitref.Ref) (_ root, err error) {
	step := j.log.Step("[internal] load git source " + j.context)
	defer func() { step.Done(err) }()
	keep := j.args["BUILDKIT_CONTEXT_KEEP_GIT_DIR"]
	o, err := j.sources.Open(ctx, gitOp(ref, keep == "1" || keep == "true"), step)
	if err != nil {
		return root{}, err
	}
	return root{dir: o.Tree.Root().Name(), remote: true, opened: o}, nil
}

func gitOp(ref gitref.Ref, keep bool) *graph.Git {
	op := &graph.Git{
		URL: ref.Remote, Ref: ref.Ref, Subdir: ref.Subdir, Checksum: ref.Checksum, KeepDir: keep,
		CommitTimes: ref.MTime == "commit", FetchByCommit: ref.FetchByCommit,
	}
	if ref.Bare {
		op.URL = "https://" + op.URL
	}
	if ref.KeepDir != nil {
		op.KeepDir = *ref.KeepDir
	}
	op.NoSubmodules = ref.Submodules != nil && !*ref.Submodules
	return op
}

// openNamed opens a --build-context. A directory has its own ignore file.
func (j *job) openNamed(ctx context.Context, name, value string, step *progress.Step) (*source.Opened, error) {
	ref, err := gitref.Parse(value)
	switch {
	case err == nil && !(ref.Bare && exists(value)):
		return j.sources.Open(ctx, gitOp(ref, false), step)
	case err != nil && !errors.Is(err, gitref.ErrNot):
		return nil, errs.E("build context "+name, errs.Invalid, err)
	case isURL(value):
		body, err := j.sources.Get(ctx, value)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		s, err := j.sources.Stream(ctx, body)
		if err != nil {
			return nil, err
		}
		if s.Dir == "" {
			return nil, errs.New(errs.Invalid, fmt.Sprintf("build context %s: %s is no archive", name, value))
		}
		return j.sources.Directory(s.Dir, source.TreeOptions{})
	}
	dir, err := directory(strings.TrimPrefix(value, "local:"))
	if err != nil {
		return nil, fmt.Errorf("build context %s: %w", name, err)
	}
	text, err := os.ReadFile(filepath.Join(dir, ".dockerignore"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	m, err := ignore.New(ignore.Parse(text))
	if err != nil {
		return nil, err
	}
	return j.sources.Directory(dir, source.TreeOptions{Ignore: m})
}

// names are what a Dockerfile may be called, the first one counting most.
var dockerfiles = [...]string{"Dockerfile", "dockerfile", "Containerfile"}

// readDockerfile sets the Dockerfile's text and name.
func (j *job) readDockerfile(ctx context.Context, r root) (err error) {
	if r.text != nil {
		j.text, j.name = r.text, "Dockerfile"
		return j.loaded()
	}
	switch {
	case j.o.file == "-":
		j.name = "Dockerfile"
		j.text, err = io.ReadAll(io.LimitReader(j.s.In, source.MaxText))
	case isURL(j.o.file):
		j.name = filepath.Base(j.o.file)
		var body io.ReadCloser
		if body, err = j.sources.Get(ctx, j.o.file); err == nil {
			j.text, err = io.ReadAll(io.LimitReader(body, source.MaxText))
			body.Close()
		}
	case j.o.file != "":
		j.name = j.o.file
		j.text, err = j.readFile(r, j.o.file)
	default:
		for _, n := range dockerfiles {
			j.name = n
			if j.text, err = readBelow(r, n); err == nil || !errors.Is(err, fs.ErrNotExist) {
				break
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			j.name = "Dockerfile"
			err = errs.WithHint(errs.New(errs.NotFound, "failed to read dockerfile: open Dockerfile: no such file or directory"),
				"Name it with -f, or build in the directory that has it.")
		}
	}
	if err != nil {
		return err
	}
	return j.loaded()
}

// readFile reads -f: relative to where the command runs, or, where it is not
// there or the context is a remote one, to the context.
func (j *job) readFile(r root, name string) ([]byte, error) {
	if !r.remote {
		text, err := readFile(name)
		if err == nil || !errors.Is(err, fs.ErrNotExist) || filepath.IsAbs(name) {
			return text, noDockerfile(name, err)
		}
	}
	text, err := readBelow(r, name)
	return text, noDockerfile(name, err)
}

func noDockerfile(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return errs.New(errs.NotFound, fmt.Sprintf("failed to read dockerfile: open %s: no such file or directory", filepath.Base(name)))
	}
	if err != nil {
		return fmt.Errorf("failed to read dockerfile: %w", err)
	}
	return nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return limited(f)
}

// limited reads what is to be a Dockerfile.
func limited(f *os.File) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(f, source.MaxText+1))
	if err == nil && len(text) > source.MaxText {
		err = source.TooLarge(f.Name())
	}
	return text, err
}

// readBelow reads a file of the context. In a remote one, links stay in it.
func readBelow(r root, name string) ([]byte, error) {
	if !r.remote {
		return readFile(filepath.Join(r.dir, name))
	}
	t, err := source.OpenTree(r.dir, source.TreeOptions{})
	if err != nil {
		return nil, err
	}
	defer t.Close()
	f, err := t.OpenFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return limited(f)
}

// loaded shows that the Dockerfile is there.
func (j *job) loaded() error {
	if strings.TrimSpace(string(j.text)) == "" {
		return errs.New(errs.Invalid, fmt.Sprintf("the Dockerfile (%s) cannot be empty", j.name))
	}
	step := j.log.Step("[internal] load build definition from " + filepath.Base(j.name))
	step.ItemDone("transferring dockerfile:", int64(len(j.text)))
	step.Done(nil)
	return nil
}

// readIgnore returns the patterns of the context's ignore file: the Dockerfile's
// own if it has one.
func (j *job) readIgnore(r root) ([]string, error) {
	step := j.log.Step("[internal] load .dockerignore")
	text, err := j.ignoreText(r)
	if err == nil {
		step.ItemDone("transferring context:", int64(len(text)))
	}
	step.Done(err)
	if err != nil {
		return nil, err
	}
	return ignore.Parse(text), nil
}

// ignoreNames are podman's and Docker's names of ignore files, and what they end in
// if they are a Dockerfile's own.
var ignoreNames = [...]string{".containerignore", ".dockerignore"}

func (j *job) ignoreText(r root) ([]byte, error) {
	if j.o.ignoreFile != "" {
		return os.ReadFile(j.o.ignoreFile)
	}
	if r.text == nil && j.o.file != "-" && !isURL(j.o.file) {
		for _, suffix := range ignoreNames {
			if !r.remote && j.o.file != "" {
				if text, err := os.ReadFile(j.name + suffix); err == nil || !errors.Is(err, fs.ErrNotExist) {
					return text, err
				}
			}
			if text, err := readBelow(r, j.name+suffix); err == nil || !isAbsent(err) {
				return text, err
			}
		}
	}
	for _, name := range ignoreNames {
		text, err := readBelow(r, name)
		if err == nil || !isAbsent(err) {
			return bytes.TrimSpace(text), err
		}
	}
	return nil, nil
}

func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "not a directory")
}
