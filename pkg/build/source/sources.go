package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/build/progress"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
)

// Options are what Sources work with.
type Options struct {
	// Dir is where indexes, repositories and downloads are kept from build to
	// build, and archives while a build reads them. It is made if need be.
	Dir string
	// Secrets has what servers want to be told: GIT_AUTH_TOKEN, GIT_AUTH_HEADER,
	// HTTP_AUTH_TOKEN and HTTP_AUTH_HEADER, each followed by "." or "_" and a host.
	// May be nil.
	Secrets *Secrets
	// Agents are those of --ssh, for repositories that are reached by ssh. May be
	// nil.
	Agents *Agents
	// Environ is the environment that git runs in.
	Environ []string
	// User, if not 0, is who git is to be inside a user namespace, of which this
	// process is root: ssh looks up the home directory of its user.
	User, Group int
	UserAgent   string
	// Transport carries http requests; nil is one that honours the proxies of
	// the environment.
	Transport http.RoundTripper
}

// Sources opens what a build copies from, each once. It may be used by several
// goroutines.
type Sources struct {
	o      Options
	client *http.Client

	mu     sync.Mutex
	locals map[string]func(context.Context, *progress.Step) (*Opened, error)
	opened map[string]*opening
	closed []func() error // in the reverse order
}

type opening struct {
	once sync.Once
	o    *Opened
	err  error
}

// Opened is a tree and what is known of it as a whole.
type Opened struct {
	Tree *Tree
	// ID names the contents if something else than a digest of the files does: a
	// commit. Empty: nothing does.
	ID string
	// Time is the commit's or the download's; zero: there is none.
	Time time.Time
	// Done says what was cached: nothing had to be fetched.
	Cached bool
}

// New returns sources without any local ones.
func New(o Options) *Sources {
	rt := o.Transport
	if rt == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = time.Minute
		rt = t
	}
	return &Sources{
		o: o, client: &http.Client{Transport: rt},
		locals: map[string]func(context.Context, *progress.Step) (*Opened, error){},
		opened: map[string]*opening{},
	}
}

// Add gives a [graph.Local] of the name its files, which open returns when
// somebody wants them. What it opened is closed with the sources.
func (s *Sources) Add(name string, open func(context.Context, *progress.Step) (*Opened, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locals[name] = open
}

// Close closes all that was opened.
func (s *Sources) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all error
	done := map[*Tree]bool{nil: true} // one may have two names
	for _, o := range s.opened {
		if o.o != nil && !done[o.o.Tree] {
			done[o.o.Tree] = true
			all = errors.Join(all, o.o.Tree.Close())
		}
	}
	s.opened = map[string]*opening{}
	for i := len(s.closed) - 1; i >= 0; i-- {
		all = errors.Join(all, s.closed[i]())
	}
	s.closed = nil
	return all
}

// later has f called by Close.
func (s *Sources) later(f func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = append(s.closed, f)
}

// Open returns the files of a *graph.Local, *graph.Git or *graph.HTTP, which stay
// the sources'. What it takes is reported to step; the same is fetched once.
func (s *Sources) Open(ctx context.Context, op graph.Op, step *progress.Step) (*Opened, error) {
	var key string
	var do func() (*Opened, error)
	switch op := op.(type) {
	case *graph.Local:
		s.mu.Lock()
		open := s.locals[op.Name]
		s.mu.Unlock()
		if open == nil {
			return nil, errs.New(errs.NotFound, "no build context named "+op.Name)
		}
		key, do = "local "+op.Name, func() (*Opened, error) { return open(ctx, step) }
	case *graph.Git:
		key, do = fmt.Sprintf("git %+v", *op), func() (*Opened, error) { return s.openGit(ctx, op, step) }
	case *graph.HTTP:
		key, do = fmt.Sprintf("http %+v", *op), func() (*Opened, error) { return s.openHTTP(ctx, op, step) }
	default:
		return nil, errs.New(errs.Internal, fmt.Sprintf("%T is no source", op))
	}
	s.mu.Lock()
	o := s.opened[key]
	if o == nil {
		o = &opening{}
		s.opened[key] = o
	}
	s.mu.Unlock()
	o.once.Do(func() { o.o, o.err = do() })
	return o.o, o.err
}

// Local returns the files of a context. They stay the sources'.
func (s *Sources) Local(ctx context.Context, name string) (*Tree, error) {
	o, err := s.Open(ctx, &graph.Local{Name: name}, nil)
	if err != nil {
		return nil, err
	}
	return o.Tree, nil
}

// Git returns the files of a commit, which stay the sources'; key is the commit.
func (s *Sources) Git(ctx context.Context, op *graph.Git, step *progress.Step) (t *Tree, key string, err error) {
	return s.keyed(ctx, op, step)
}

// HTTP returns a directory with the one file; key is its digest and its time.
func (s *Sources) HTTP(ctx context.Context, op *graph.HTTP, step *progress.Step) (t *Tree, key string, err error) {
	return s.keyed(ctx, op, step)
}

func (s *Sources) keyed(ctx context.Context, op graph.Op, step *progress.Step) (*Tree, string, error) {
	o, err := s.Open(ctx, op, step)
	if err != nil {
		return nil, "", err
	}
	key := o.ID
	if _, ok := op.(*graph.HTTP); ok {
		key += " " + strconv.FormatInt(o.Time.Unix(), 10)
	}
	return o.Tree, key, nil
}

// Secret returns a secret's value; found is false if it was not given.
func (s *Sources) Secret(ctx context.Context, id string) (value []byte, found bool, err error) {
	return s.o.Secrets.Get(ctx, id)
}

// Agent returns how to connect to an ssh agent; found is false if it was not
// given.
func (s *Sources) Agent(_ context.Context, id string) (dial func(context.Context) (io.ReadWriteCloser, error), found bool, err error) {
	dial, found = s.o.Agents.Dial(id)
	return dial, found, nil
}

// Directory opens a directory of this machine, with its index.
func (s *Sources) Directory(dir string, o TreeOptions) (*Opened, error) {
	if o.IndexDir == "" {
		o.IndexDir = filepath.Join(s.o.Dir, "index")
	}
	t, err := OpenTree(dir, o)
	if err != nil {
		return nil, err
	}
	return &Opened{Tree: t}, nil
}

// name is a directory's name for something with a long one.
func name(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(sum[:16])
}

// entry makes the directory kind/id of what is kept from build to build, and has
// it stay as long as the sources are open: who collects it needs its lock alone.
func (s *Sources) entry(ctx context.Context, kind, id string) (string, error) {
	dir := filepath.Join(s.o.Dir, kind, id)
	for {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		l, err := lock.Acquire(ctx, filepath.Join(dir, "lock"), false)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		// The collector removes the directory with the lock in it.
		held, err := l.File().Stat()
		if err != nil {
			return "", errors.Join(err, l.Release())
		}
		if there, err := os.Lstat(filepath.Join(dir, "lock")); err == nil && os.SameFile(held, there) {
			now := time.Now()
			_ = os.Chtimes(dir, now, now) // when it was used last
			s.later(l.Release)
			return dir, nil
		}
		l.Release()
	}
}

// fetching has one process at a time change what is in an entry.
func fetching(ctx context.Context, dir string) (*lock.Lock, error) {
	return lock.Acquire(ctx, filepath.Join(dir, "fetch.lock"), true)
}

// Scratch makes an empty directory that is removed when the sources are closed. What a
// killed process leaves is removed by the next one that makes one.
func (s *Sources) Scratch() (string, error) {
	parent := filepath.Join(s.o.Dir, "tmp")
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return "", err
	}
	collectScratch(parent)
	dir, err := os.MkdirTemp(parent, strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		return "", err
	}
	l, err := lock.Try(dir+".lock", true)
	if err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	s.later(func() error {
		err := removeAll(dir)
		os.Remove(dir + ".lock")
		return errors.Join(err, l.Release())
	})
	return dir, nil
}

// collectScratch removes what nobody holds, once it is a minute old: younger, it
// may be about to be locked.
func collectScratch(parent string) {
	list, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, d := range list {
		fi, err := d.Info()
		if err != nil || !d.IsDir() || time.Since(fi.ModTime()) < time.Minute {
			continue
		}
		dir := filepath.Join(parent, d.Name())
		l, err := lock.Try(dir+".lock", true)
		if err != nil {
			continue
		}
		_ = removeAll(dir)
		os.Remove(dir + ".lock")
		l.Release()
	}
}

// removeAll also removes directories without permissions.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil || !errors.Is(err, os.ErrPermission) {
		return err
	}
	_ = filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(p, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
