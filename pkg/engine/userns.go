package engine

import (
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cais.dev/cais/pkg/run"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/userns"
)

// self is this program, whatever has become of its file.
const self = "/proc/self/exe"

// EnterUserNS runs this command again inside the user's namespace if it must
// change files of mapped ids there: then entered is true, and the command is
// over, with code. As root, and inside the namespace, it does nothing.
func (e *Engine) EnterUserNS(ctx context.Context) (code int, entered bool, err error) {
	if !userns.Needed() {
		return 0, false, nil
	}
	code, err = e.runInside(ctx, self, e.o.Args, e.files())
	return code, true, err
}

// RunAgain runs this program with another command inside the user's namespace if
// that is where it must be: for a command that has asked something already, or
// that does more. out, if not nil, gets what it prints.
func (e *Engine) RunAgain(ctx context.Context, out *os.File, words ...string) (code int, entered bool, err error) {
	if !userns.Needed() {
		return 0, false, nil
	}
	args := append(append([]string{e.program()}, e.globalFlags()...), words...)
	files := e.files()
	if out != nil {
		files[1] = out
	}
	code, err = e.runInside(ctx, self, args, files)
	return code, true, err
}

// RunInUserNS runs a program inside the user's namespace, or, as root and
// inside it, just so, and returns its exit code.
func (e *Engine) RunInUserNS(ctx context.Context, path string, args []string) (code int, err error) {
	if !userns.Needed() {
		return e.runHere(ctx, path, args, e.files())
	}
	return e.runInside(ctx, path, args, e.files())
}

// files are the standard streams as far as they are files; a program started
// with nil has /dev/null there.
func (e *Engine) files() []*os.File {
	f := func(stream any) *os.File {
		file, _ := stream.(*os.File)
		return file
	}
	return []*os.File{f(e.o.Stdin), f(e.o.Stdout), f(e.o.Stderr)}
}

// runInside starts a program in the user's namespace, as root in the present
// one, and waits for it. It stays in this process group, so that the terminal's
// keys reach it. What else signals this process is passed on.
func (e *Engine) runInside(ctx context.Context, path string, args []string, files []*os.File) (code int, err error) {
	if err := e.Prepare(); err != nil {
		return 0, err
	}
	p, err := e.Paths()
	if err != nil {
		return 0, err
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)

	// The child is told of the end of the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	child, err := userns.Start(ctx, p.Run, &userns.Cmd{
		Path: path, Args: args, Env: e.o.Environ, Files: files, MountNS: true, Pdeathsig: syscall.SIGTERM,
	})
	if err != nil {
		return 0, err
	}
	done := make(chan struct{})
	forwarding := make(chan struct{})
	go func() {
		defer close(forwarding)
		for {
			select {
			case <-done:
				return
			case s := <-signals:
				if sig, ok := s.(syscall.Signal); ok && !(sig == syscall.SIGINT && foreground()) {
					_ = syscall.Kill(child.PID, sig) // it may be gone
				}
			}
		}
	}()
	code, err = child.Wait()
	close(done)
	<-forwarding
	return code, err
}

// forwarded are the signals that are meant for whoever does the work.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

// foreground reports whether this process group is the one that the terminal
// signals: then the child, which is in it, has got Ctrl-C already.
func foreground() bool {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return false
	}
	// Behind the name: state ppid pgrp session tty_nr tpgid, proc_pid_stat(5).
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return len(f) > 5 && f[5] == strconv.Itoa(syscall.Getpgrp())
}

// PullOptions are what run and create say about fetching an image.
type PullOptions struct {
	Platform  string
	Policy    string // always, missing, never, newer
	Quiet     bool
	AuthFile  string
	CertDir   string
	Creds     string
	TLSVerify *bool
	Out       io.Writer // gets the progress, and errors: usually stderr
}

// ReportedError is the failure of a command that has said why on stderr.
type ReportedError struct{ Code int }

// Error says only that there was one.
func (e *ReportedError) Error() string { return "exit status " + strconv.Itoa(e.Code) }

// Reported marks it as one not to print again.
func (e *ReportedError) Reported() bool { return true }

// Pull fetches an image with a "pull" of its own, which for an ordinary user
// runs in the user's namespace: unpacking needs it, and this process must stay
// outside. Everything that it prints goes to o.Out.
func (e *Engine) Pull(ctx context.Context, ref string, o PullOptions) error {
	args := append([]string{e.program()}, e.globalFlags()...)
	args = append(args, "pull", "--no-name")
	for _, f := range [][2]string{{"--platform", o.Platform}, {"--policy", o.Policy}, {"--authfile", o.AuthFile}, {"--cert-dir", o.CertDir}} {
		if f[1] != "" {
			args = append(args, f[0]+"="+f[1])
		}
	}
	if o.Quiet {
		args = append(args, "--quiet")
	}
	if o.TLSVerify != nil {
		args = append(args, "--tls-verify="+strconv.FormatBool(*o.TLSVerify))
	}
	var more []*os.File
	if o.Creds != "" { // not among the arguments, where everybody can read them
		secret, err := sys.Memfd("creds", []byte(o.Creds))
		if err != nil {
			return err
		}
		defer secret.Close()
		more = append(more, secret)
		args = append(args, "--creds-fd=3")
	}
	args = append(args, "--", ref)

	out, ok := o.Out.(*os.File)
	if !ok {
		return errors.New("pull: the output is not a file")
	}
	code, err := e.runChild(ctx, args, out, more...)
	if err != nil {
		return err
	}
	if code != 0 {
		return &ReportedError{Code: code}
	}
	return nil
}

func (e *Engine) runChild(ctx context.Context, args []string, out *os.File, more ...*os.File) (int, error) {
	files := append([]*os.File{nil, out, out}, more...)
	if userns.Needed() {
		return e.runInside(ctx, self, args, files)
	}
	return e.runHere(ctx, self, args, files)
}

// runHere is runInside for root, who is where the work can be done.
func (e *Engine) runHere(ctx context.Context, path string, args []string, files []*os.File) (int, error) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGQUIT) // the terminal's: the child has them, too
	defer signal.Stop(signals)
	attr := &os.ProcAttr{Env: e.o.Environ, Files: files}
	if userns.Inside() { // who changes the store mounts, where nobody else is to see it
		attr.Sys = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	}
	p, err := os.StartProcess(path, args, attr)
	if err != nil {
		return 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.Signal(syscall.SIGTERM) }) // it may be gone
	defer stop()
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// program is the name to call the program by, which as the name of a role would
// mean another.
func (e *Engine) program() string {
	if len(e.o.Args) > 0 && e.o.Args[0] != run.CleanupRole {
		return e.o.Args[0]
	}
	return "cais"
}

// environ is the environment for programs that work elsewhere: a directory that
// it names is not relative to ours.
func (e *Engine) environ() []string {
	root := e.o.Getenv("CAIS_ROOT")
	abs, err := filepath.Abs(root)
	if root == "" || err != nil || abs == root {
		return e.o.Environ
	}
	env := slices.DeleteFunc(slices.Clone(e.o.Environ), func(kv string) bool { return strings.HasPrefix(kv, "CAIS_ROOT=") })
	return append(env, "CAIS_ROOT="+abs)
}

// GlobalFlags are the flags before the command for a program that works on the same
// directories.
func (e *Engine) GlobalFlags() []string { return e.globalFlags() }

// globalFlags are the flags that this engine was made by, for a program that
// may work in another directory.
func (e *Engine) globalFlags() []string {
	var flags []string
	add := func(name, value string) {
		if value != "" {
			flags = append(flags, name+"="+value)
		}
	}
	dir := func(name, value string) {
		if abs, err := filepath.Abs(value); err == nil && value != "" {
			value = abs
		}
		add(name, value)
	}
	dir("--config", e.o.ConfigDir)
	dir("--root", e.o.GraphRoot)
	dir("--runroot", e.o.RunRoot)
	add("--storage-driver", e.o.StorageDriver)
	for _, o := range e.o.StorageOpts {
		add("--storage-opt", o)
	}
	add("--runtime", e.o.Runtime)
	if e.o.LogLevel != "info" { // the default
		add("--log-level", e.o.LogLevel)
	}
	if e.o.Debug {
		flags = append(flags, "--debug")
	}
	return flags
}
