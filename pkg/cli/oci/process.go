package oci

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/ociruntime"
	"cais.dev/cais/pkg/sys"
	"cais.dev/cais/pkg/sys/raw"
)

// createFlags are those of create and run.
func createFlags(f *pflag.FlagSet, o *ociruntime.CreateOptions) {
	f.StringVarP(&o.Bundle, "bundle", "b", ".", "`Directory` of the bundle")
	f.StringVarP(&o.Config, "config", "f", "", "`File` to read instead of the bundle's config.json")
	f.StringVar(&o.PidFile, "pid-file", "", "`File` to write the process's pid to")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "`Socket` that gets the terminal's master")
	f.IntVar(&o.PreserveFDs, "preserve-fds", 0, "Pass so many descriptors behind the first three")
	f.BoolVar(&o.NoPivot, "no-pivot", false, "Do not use pivot_root: for a root on a ramfs")
	f.BoolVar(&o.NoNewKeyring, "no-new-keyring", false, "Stay in the caller's session keyring")
}

// stdio are our own streams.
func (g *globals) stdio() [3]*os.File {
	var list [3]*os.File
	for i, s := range []any{g.s.In, g.s.Out, g.s.Err} {
		if f, ok := s.(*os.File); ok {
			list[i] = f
		}
	}
	return list
}

// fdsOf counts what systemd passes, beside what the flag says.
func (g *globals) listenFDs(n int) int {
	if pid, err := strconv.Atoi(g.e.Getenv("LISTEN_PID")); err != nil || pid != os.Getpid() {
		return n
	}
	more, err := strconv.Atoi(g.e.Getenv("LISTEN_FDS"))
	if err != nil || more < 0 {
		return n
	}
	return n + more
}

func (g *globals) create() *cobra.Command {
	var o ociruntime.CreateOptions
	cmd := one("create [OPTIONS] CONTAINER", "Make a container that waits for its start", 1)
	createFlags(cmd.Flags(), &o)
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		o.ID, o.Stdio, o.PreserveFDs = args[0], g.stdio(), g.listenFDs(o.PreserveFDs)
		return r.Create(cmd.Context(), o)
	})
	return cmd
}

func (g *globals) run() *cobra.Command {
	var o ociruntime.CreateOptions
	var detach, keep, subreaper bool
	cmd := one("run [OPTIONS] CONTAINER", "Make a container and start it", 1)
	f := cmd.Flags()
	createFlags(f, &o)
	f.BoolVarP(&detach, "detach", "d", false, "Leave once it runs")
	f.BoolVar(&keep, "keep", false, "Do not remove the container at its end")
	f.BoolVar(&subreaper, "no-subreaper", false, "Without effect: this program is none")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		o.ID, o.Stdio, o.PreserveFDs = args[0], g.stdio(), g.listenFDs(o.PreserveFDs)
		p, err := r.Run(cmd.Context(), o)
		if err != nil {
			return err
		}
		if detach {
			if p.Master != nil {
				err = errors.New("a detached container with a terminal needs a --console-socket")
				return errors.Join(err, r.Delete(cmd.Context(), o.ID, true))
			}
			return nil
		}
		code, err := g.foreground(p)
		if !keep {
			err = errors.Join(err, r.Delete(cmd.Context(), o.ID, true))
		}
		return exitCode(code, err)
	})
	return cmd
}

func exitCode(code int, err error) error {
	if err != nil || code == 0 {
		return err
	}
	return &ui.ExitError{Code: code}
}

func (g *globals) exec() *cobra.Command {
	var o ociruntime.ExecOptions
	var detach bool
	var groups []uint
	cmd := &cobra.Command{Use: "exec [OPTIONS] CONTAINER [COMMAND [ARG...]]", Short: "Run a process in a running container",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: complete.None, DisableFlagsInUseLine: true}
	f := cmd.Flags()
	f.SetInterspersed(false)
	f.StringVarP(&o.Process, "process", "p", "", "`File` with the process as in config.json")
	f.BoolVarP(&o.Terminal, "tty", "t", false, "Give it a terminal")
	f.StringVar(&o.Cwd, "cwd", "", "Its working `directory`")
	f.StringArrayVarP(&o.Env, "env", "e", nil, "A `variable` beside the container's")
	f.StringVarP(&o.User, "user", "u", "", "Its user, as `UID[:GID]`")
	f.UintSliceVarP(&groups, "additional-gids", "g", nil, "Further groups")
	f.StringArrayVarP(&o.Caps, "cap", "c", nil, "A `capability` beside the container's")
	f.BoolVarP(&detach, "detach", "d", false, "Leave once it runs")
	f.StringVar(&o.PidFile, "pid-file", "", "`File` to write its pid to")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "`Socket` that gets the terminal's master")
	f.IntVar(&o.PreserveFDs, "preserve-fds", 0, "Pass so many descriptors behind the first three")
	f.BoolVar(&o.NoNewPrivileges, "no-new-privs", false, "Forbid it new privileges")
	f.StringVar(&o.Apparmor, "apparmor", "", "Its AppArmor `profile`")
	f.StringVar(&o.Label, "process-label", "", "Its SELinux `label`")
	f.StringVar(&o.SubCgroup, "cgroup", "", "Run it in this `cgroup` below the container's")
	f.BoolVar(&o.IgnorePaused, "ignore-paused", false, "Also in a paused container")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		o.ID, o.Args, o.Stdio = args[0], args[1:], g.stdio()
		for _, n := range groups {
			o.Groups = append(o.Groups, uint32(n))
		}
		if o.Process == "" && len(o.Args) == 0 {
			return errors.New("no command given, and no --process")
		}
		p, err := r.Exec(cmd.Context(), o)
		if err != nil {
			return err
		}
		if detach {
			if p.Master != nil {
				p.Signal(syscall.SIGKILL)
				return errors.New("a detached process with a terminal needs a --console-socket")
			}
			return nil
		}
		code, err := g.foreground(p)
		return exitCode(code, err)
	})
	return cmd
}

// foreground passes signals on, copies the terminal's bytes, and waits for the
// process's end.
func (g *globals) foreground(p *ociruntime.Process) (int, error) {
	signals := make(chan os.Signal, 32)
	signal.Notify(signals)
	defer signal.Stop(signals)
	go func() {
		for s := range signals {
			switch sig := s.(syscall.Signal); sig {
			case syscall.SIGCHLD, syscall.SIGURG, syscall.SIGPIPE:
			case syscall.SIGWINCH:
				g.resize(p)
			default:
				p.Signal(sig)
			}
		}
	}()
	if p.Master == nil {
		return p.Wait()
	}
	g.resize(p)
	in := g.stdio()[0]
	if in != nil && sys.IsTerminal(int(in.Fd())) {
		restore, err := sys.RawTerminal(int(in.Fd()))
		if err != nil {
			return 0, err
		}
		defer func() { _ = restore() }() // the terminal may be gone
	}
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(g.s.Out, p.Master) // EIO: the other end is closed
		close(done)
	}()
	go func() { _, _ = io.Copy(p.Master, g.s.In) }() // until either is gone
	code, err := p.Wait()
	<-done
	return code, err
}

func (g *globals) resize(p *ociruntime.Process) {
	in := g.stdio()[0]
	if p.Master == nil || in == nil {
		return
	}
	if rows, cols, err := sys.WindowSize(int(in.Fd())); err == nil {
		_ = raw.SetWindowSize(int(p.Master.Fd()), rows, cols) // it may be gone
	}
}

func (g *globals) printVersion() error {
	_, err := fmt.Fprintf(g.s.Out, "cais-oci version %s\nspec: %s\n", g.e.Build().Version, ociruntime.SpecVersion())
	return err
}
