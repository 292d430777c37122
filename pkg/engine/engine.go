// Package engine makes each service when it is first asked for, from what the
// environment and the global flags say. It wires and decides nothing else: the
// commands, and later an API socket, share it.
package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"cais.dev/cais/pkg/config"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/userns"
)

// Build says which program this is.
type Build struct {
	Version string // "0.1.0"
	Commit  string // seven hex digits; empty if unknown
	Time    string // RFC 3339; empty if unknown, as in reproducible builds
}

// Options are what New is given. The zero value is an engine for tests that
// has nothing to read.
type Options struct {
	Build   Build
	Getenv  func(string) string // os.Getenv
	Args    []string            // the whole command line, to run it again elsewhere
	Environ []string            // os.Environ, for the programs it starts
	Stdin   io.Reader           // these three are what a command runs again with; may be nil
	Stdout  io.Writer
	Stderr  io.Writer // --debug writes there too

	// The global flags; empty values leave the choice to the environment and to
	// configuration files.
	ConfigDir     string // --config: Docker's client configuration
	GraphRoot     string // --root
	RunRoot       string // --runroot
	StorageDriver string
	StorageOpts   []string
	Runtime       string // --runtime
	Debug         bool
	LogLevel      string
	// Docker is true if the program was called by the name "docker".
	Docker bool
}

// Engine makes services. Each is made once, when first asked for.
type Engine struct {
	o      Options
	paths  func() (config.Paths, error)
	ready  func() error
	client func() map[string]json.RawMessage // Docker's config.json
	s      services
}

// New returns an engine. It opens nothing.
func New(o Options) *Engine {
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	e := &Engine{o: o}
	e.paths = sync.OnceValues(e.locate)
	e.ready = sync.OnceValue(e.prepare)
	e.client = sync.OnceValue(e.readClient)
	e.wire()
	return e
}

// Build says which program this is.
func (e *Engine) Build() Build { return e.o.Build }

// Getenv returns a variable of the environment.
func (e *Engine) Getenv(name string) string { return e.o.Getenv(name) }

// Options returns what the engine was made with.
func (e *Engine) Options() Options { return e.o }

// DriverName is what the store's driver is called: by the name of docker, overlay is
// overlay2, which scripts look for.
func (e *Engine) DriverName(driver string) string {
	if e.o.Docker && driver == "overlay" {
		return "overlay2"
	}
	return driver
}

// Paths are the directories to work in. They need not exist.
func (e *Engine) Paths() (config.Paths, error) { return e.paths() }

// CDIDirs are where vendors describe their devices.
func (e *Engine) CDIDirs() ([]string, error) {
	env, err := e.env()
	return config.CDIDirs(env), err
}

// Prepare makes the run directories, mode 0700, and refuses those that belong
// to somebody else: who owns them owns every container.
func (e *Engine) Prepare() error { return e.ready() }

// env is what deciding on directories needs to know.
func (e *Engine) env() (config.Env, error) {
	env := config.Env{UID: userns.OuterUID(), Getenv: e.getenv}
	home, err := home(e.o.Getenv, env.UID)
	if err != nil && env.UID != 0 && e.o.Getenv("CAIS_ROOT") == "" {
		return env, err
	}
	env.Home = home
	if dir := "/run/user/" + strconv.Itoa(env.UID); env.UID != 0 && ours(dir) {
		env.RunUser = dir
	}
	return env, nil
}

func (e *Engine) locate() (config.Paths, error) {
	env, err := e.env()
	if err != nil {
		return config.Paths{}, err
	}
	p := config.Locate(env)
	if dir := e.o.GraphRoot; dir != "" {
		p.GraphRoot = dir
		if e.o.Getenv("CAIS_ROOT") == "" { // its containers and volumes, too, as podman's
			p.Root, p.Run = filepath.Join(dir, "cais"), filepath.Join(dir, "cais", "run")
		}
	}
	if e.o.RunRoot != "" {
		p.RunRoot = e.o.RunRoot
	}
	for _, dir := range []*string{&p.Root, &p.Run, &p.GraphRoot, &p.RunRoot} {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return config.Paths{}, fmt.Errorf("find the directory %s: %w", *dir, err)
		}
		*dir = abs
	}
	return p, nil
}

// getenv hides an XDG_RUNTIME_DIR that su or sudo left behind from another
// user, or that is gone: nothing can be written there.
func (e *Engine) getenv(name string) string {
	v := e.o.Getenv(name)
	if name == "XDG_RUNTIME_DIR" && v != "" && !ours(v) {
		return ""
	}
	return v
}

// singleID reports whether the user's namespace has one id only.
func (e *Engine) singleID(uid int) (bool, error) {
	if uid == 0 {
		return false, nil
	}
	m, err := userns.Map(uid)
	return m.Single, err
}

// home is the user's home directory, from the password file if HOME is not set.
func home(getenv func(string) string, uid int) (string, error) {
	if h := getenv("HOME"); filepath.IsAbs(h) {
		return h, nil
	}
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil || !filepath.IsAbs(u.HomeDir) {
		if getenv("XDG_DATA_HOME") != "" {
			return "", nil
		}
		return "", errs.WithHint(errs.New(errs.Unsupported, "HOME is not set and user "+strconv.Itoa(uid)+" has no entry in the password file"),
			"Set HOME, or set CAIS_ROOT to a directory that cais may use.")
	}
	return u.HomeDir, nil
}

// ours reports whether dir is a directory of this user.
func ours(dir string) bool {
	fi, err := os.Stat(dir)
	if err != nil || !fi.IsDir() {
		return false
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}

func (e *Engine) prepare() error {
	p, err := e.Paths()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(p.Root, 0o700); err != nil {
		return errs.WithHint(fmt.Errorf("make the directory for containers: %w", err),
			"Set CAIS_ROOT to a directory that cais may write to.")
	}
	for _, dir := range []string{p.Run, p.RunRoot} {
		if err := private(dir); err != nil {
			return err
		}
	}
	return nil
}

// private makes dir for this user alone, or makes sure that it is so: in /tmp
// somebody else may have been there first.
func private(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the run directory: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
		if err != nil {
			return fmt.Errorf("make the run directory: %w", err)
		}
		return nil
	}
	fi, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("look at the run directory: %w", err)
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !fi.IsDir() || !ok || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return errs.WithHint(errs.New(errs.Denied, "the run directory "+dir+" is not this user's alone"),
			"Set XDG_RUNTIME_DIR or CAIS_ROOT to a directory of your own.")
	}
	return nil
}
