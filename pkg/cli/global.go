package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
)

// globals are the flags that stand before the command.
type globals struct {
	config, context string
	hosts           []string
	debug           bool
	logLevel        string
	tls, tlsVerify  bool
	tlsFiles        [3]string

	root, runroot, driver string
	storageOpts           []string
	runtime               string
	out                   string
	noOut                 bool
	podmans               [len(podmans)]string

	version, help bool
}

// podmans are flags that podman's users, and its test suites, give to every command,
// for choices that cais does not have. They are without effect, and so not in the help.
var podmans = [...]string{"cgroup-manager", "conmon", "db-backend", "events-backend", "network-backend", "network-config-dir", "tmpdir"}

func (g *globals) flags() *pflag.FlagSet {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.StringVar(&g.config, "config", "", "Docker's client configuration is in this `directory` (default ~/.docker)")
	f.StringVarP(&g.context, "context", "c", "", "Name of the context; there is one, \"default\"")
	f.BoolVarP(&g.debug, "debug", "D", false, "Print what maintainers want to know")
	f.StringArrayVarP(&g.hosts, "host", "H", nil, "Docker's daemon `socket`; cais has none, and accepts only the default one")
	f.StringVarP(&g.logLevel, "log-level", "l", "info", "Least important `level` to print (trace, debug, info, warn, error, fatal, panic)")
	f.StringVar(&g.root, "root", "", "Images, containers and volumes are in this `directory`")
	f.StringVar(&g.runroot, "runroot", "", "Their state is in this `directory`")
	f.StringVar(&g.runtime, "runtime", "", "The OCI `runtime` of containers that name none")
	f.StringVar(&g.driver, "storage-driver", "", "The image store's `driver`: overlay")
	f.StringArrayVar(&g.storageOpts, "storage-opt", nil, "An `option` of the image store's driver")
	f.BoolVar(&g.tls, "tls", false, "Use TLS to a daemon; without effect")
	f.StringVar(&g.tlsFiles[0], "tlscacert", "", "Trust certificates signed by the CA in this `file`; without effect")
	f.StringVar(&g.tlsFiles[1], "tlscert", "", "TLS certificate `file`; without effect")
	f.StringVar(&g.tlsFiles[2], "tlskey", "", "TLS key `file`; without effect")
	f.BoolVar(&g.tlsVerify, "tlsverify", false, "Use TLS and verify the daemon; without effect")
	f.StringVar(&g.out, "out", "", "Write to this `file` instead of stdout")
	f.BoolVar(&g.noOut, "noout", false, "Write nothing to stdout")
	for i, name := range podmans {
		f.StringVar(&g.podmans[i], name, "", "One of podman's, without effect")
		_ = f.MarkHidden(name)
	}
	f.BoolVarP(&g.version, "version", "v", false, "Print the version and leave")
	f.BoolVarP(&g.help, "help", "h", false, "Print usage")
	return f
}

// parseGlobals takes the global flags off args; rest begins with the command.
func parseGlobals(name string, args []string) (g *globals, rest []string, err error) {
	g = &globals{logLevel: "info"}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return g, args, nil // no global flag: nothing to build a flag set for
	}
	f := g.flags()
	f.Init(name, pflag.ContinueOnError)
	f.SetInterspersed(false)
	f.SetOutput(io.Discard)
	if err := f.Parse(args); err != nil {
		return nil, nil, err
	}
	return g, f.Args(), nil
}

// check refuses what would select a daemon, a machine or a context that cais
// does not have.
func (g *globals) check() error {
	bad := func(err error) error { return &ui.ExitError{Code: ui.CodeUsage, Err: err} }
	switch g.logLevel = strings.ToLower(g.logLevel); g.logLevel {
	case "trace":
		g.logLevel = "debug"
	case "warning":
		g.logLevel = "warn"
	case "panic":
		g.logLevel = "fatal"
	case "debug", "info", "warn", "error", "fatal":
	default:
		return ui.Exit(ui.CodeFailure, fmt.Errorf("unable to parse logging level: %s", g.logLevel))
	}
	if g.context != "" && g.context != "default" {
		err := errs.WithHint(fmt.Errorf("context %q does not exist", g.context), "cais works on this machine only; leave --context out.")
		return ui.Exit(ui.CodeFailure, err) // Docker finds out after it has read the flags
	}
	if n := len(g.hosts); n > 1 {
		return bad(fmt.Errorf("invalid argument %q for \"-H, --host\" flag: specify only one -H", g.hosts[n-1]))
	}
	for _, h := range g.hosts {
		// Docker's and podman's own, of whichever user; another is a certain daemon's.
		name := path.Base(h)
		if !strings.HasPrefix(h, "unix://") || name != "docker.sock" && name != "podman.sock" {
			return bad(errs.WithHint(fmt.Errorf("--host %s: cais has no daemon and works on this machine only", h), "Leave --host out."))
		}
	}
	for _, o := range g.storageOpts {
		if !strings.Contains(o, "=") {
			return bad(errors.New("--storage-opt " + o + ": expected NAME=VALUE"))
		}
	}
	return nil
}

// redirect puts what --out and --noout say in the place of stdout.
func (g *globals) redirect(s *ui.Streams) (closeOut func() error, err error) {
	path, flags := g.out, os.O_WRONLY|os.O_CREATE|os.O_TRUNC
	switch {
	case g.noOut:
		path, flags = os.DevNull, os.O_WRONLY
	case path == "":
		return func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, flags, 0o644)
	if err != nil {
		return nil, ui.Exit(ui.CodeUsage, fmt.Errorf("open what --out names: %w", err))
	}
	s.Out = f
	return f.Close, nil
}

func (g *globals) options() engine.Options {
	return engine.Options{
		ConfigDir:     g.config,
		GraphRoot:     g.root,
		RunRoot:       g.runroot,
		StorageDriver: g.driver,
		StorageOpts:   g.storageOpts,
		Runtime:       g.runtime,
		Debug:         g.debug,
		LogLevel:      g.logLevel,
	}
}
