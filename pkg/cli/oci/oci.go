// Package oci is "oci": the command line of an OCI runtime, as crun and runc have
// it, for engines that drive one and for the public suites.
package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/ociruntime"
	"cais.dev/cais/pkg/sys"
)

// globals are the flags before the command.
type globals struct {
	root, log, logFormat, rootless, manager, criu string
	systemd, debug, version                       bool

	s ui.Streams
	e *engine.Engine
}

// New makes "oci".
func New(e *engine.Engine, s ui.Streams) *cobra.Command {
	g := &globals{s: s, e: e}
	cmd := &cobra.Command{
		Use:   "oci [OPTIONS] COMMAND [ARG...]",
		Short: "Make containers from bundles, as crun and runc do",
		Long: "An OCI runtime (runtime-spec 1.3): containers from bundles, for engines that drive a runtime.\n" +
			"Called by the name cais-oci, the program is this command: 'podman --runtime /usr/local/bin/cais-oci'.",
		Example:           "  cais oci spec\n  cais oci run -b ./bundle box\n  podman --runtime /usr/local/bin/cais-oci run alpine true",
		ValidArgsFunction: complete.None,
		SilenceErrors:     true,
		SilenceUsage:      true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if g.version {
				return g.printVersion()
			}
			if len(args) > 0 {
				var known []string
				for _, c := range cmd.Commands() {
					known = append(known, c.Name())
				}
				return ui.UnknownCommand(cmd.CommandPath(), args[0], known)
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	f := cmd.PersistentFlags()
	f.StringVar(&g.root, "root", "", "`Directory` of the containers' states (default /run/cais-oci)")
	f.StringVar(&g.log, "log", "", "`File` that errors and warnings are also appended to")
	f.StringVar(&g.logFormat, "log-format", "text", "`Format` of the log: text, json")
	f.StringVar(&g.rootless, "rootless", "auto", "Whether limits may be left out (true, false, auto)")
	f.StringVar(&g.manager, "cgroup-manager", ociruntime.Cgroupfs, "Who makes cgroups: cgroupfs, systemd, disabled")
	f.BoolVar(&g.systemd, "systemd-cgroup", false, "The same as --cgroup-manager systemd")
	f.BoolVar(&g.debug, "debug", false, "Print what maintainers want to know")
	f.StringVar(&g.criu, "criu", "", "`Path` of criu; without effect, as there are no checkpoints")
	cmd.Flags().BoolVarP(&g.version, "version", "v", false, "Print the version and leave")
	cmd.AddCommand(g.create(), g.run(), g.start(), g.state(), g.list(), g.kill(), g.remove(), g.exec(), g.ps(),
		g.pause(true), g.pause(false), g.update(), g.events(), g.spec(), g.features(), g.checkpoint("checkpoint"), g.checkpoint("restore"))
	return cmd
}

// runtime opens the runtime that the flags name.
func (g *globals) runtime() (*ociruntime.Runtime, error) {
	root := g.root
	if root == "" {
		root = ociruntime.Root(g.e.Getenv)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	manager := g.manager
	if g.systemd {
		manager = ociruntime.Systemd
	}
	switch manager {
	case ociruntime.Cgroupfs, ociruntime.Systemd, ociruntime.Disabled:
	default:
		return nil, fmt.Errorf("unknown cgroup manager %q", manager)
	}
	if g.logFormat != "text" && g.logFormat != "json" {
		return nil, fmt.Errorf("unknown log format %q: text and json are known", g.logFormat)
	}
	r := ociruntime.New(root, manager, func(text string) { g.note("warning", text) })
	if g.log != "" {
		r.Note = func(text string) { g.note("info", text) }
	}
	return r, nil
}

// note writes a line to the log, or to standard error if there is none.
func (g *globals) note(level, text string) {
	if g.log == "" {
		if level != "error" { // the error itself is printed at the end
			fmt.Fprintln(g.s.Err, "Warning:", text)
		}
		return
	}
	f, err := os.OpenFile(g.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		fmt.Fprintln(g.s.Err, text)
		return
	}
	now := time.Now().UTC().Format(time.RFC3339)
	line := []byte(fmt.Sprintf("%s %s: %s", now, level, text))
	if g.logFormat == "json" {
		line, _ = json.Marshal(map[string]string{"level": level, "msg": text, "time": now}) // strings always can be
	}
	_, err = f.Write(append(line, '\n'))
	if err := errors.Join(err, f.Close()); err != nil {
		fmt.Fprintln(g.s.Err, text)
	}
}

// do runs a command's function with the runtime, and logs its error.
func (g *globals) do(f func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		r, err := g.runtime()
		if err == nil {
			err = f(cmd, r, args)
		}
		var exit *ui.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.Err != nil) {
			g.note("error", err.Error())
		}
		return err
	}
}

func one(use, short string, n int) *cobra.Command {
	return &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(n), ValidArgsFunction: complete.None, DisableFlagsInUseLine: true}
}

func (g *globals) start() *cobra.Command {
	cmd := one("start CONTAINER", "Start the program of a created container", 1)
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		return r.Start(cmd.Context(), args[0])
	})
	return cmd
}

func (g *globals) state() *cobra.Command {
	cmd := one("state CONTAINER", "Print a container's state as JSON", 1)
	cmd.RunE = g.do(func(_ *cobra.Command, r *ociruntime.Runtime, args []string) error {
		s, err := r.State(args[0])
		if err != nil {
			return err
		}
		return printJSON(g.s.Out, s)
	})
	return cmd
}

func printJSON(w io.Writer, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(text, '\n'))
	return err
}

func (g *globals) list() *cobra.Command {
	var quiet bool
	var format string
	cmd := one("list [OPTIONS]", "List the containers", 0)
	cmd.Aliases = []string{"ls"}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "Print only the names")
	cmd.Flags().StringVarP(&format, "format", "f", "table", "`Format`: table, json")
	cmd.RunE = g.do(func(_ *cobra.Command, r *ociruntime.Runtime, _ []string) error {
		all, err := r.List()
		if err != nil {
			return err
		}
		switch {
		case quiet:
			for _, c := range all {
				fmt.Fprintln(g.s.Out, c.ID)
			}
		case format == "json":
			if all == nil {
				all = []*ociruntime.State{}
			}
			return json.NewEncoder(g.s.Out).Encode(all)
		case format == "table":
			rows := [][]string{{"ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"}}
			for _, c := range all {
				rows = append(rows, []string{c.ID, fmt.Sprint(c.PID), string(c.Status), c.Bundle, c.Created.Format(time.RFC3339Nano), c.Owner})
			}
			table(g.s.Out, rows)
		default:
			return fmt.Errorf("unknown format %q: table and json are known", format)
		}
		return nil
	})
	return cmd
}

func table(w io.Writer, rows [][]string) {
	width := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len(cell))
		}
	}
	for _, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			fmt.Fprintf(&b, "%-*s", width[i]+1, cell)
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func (g *globals) kill() *cobra.Command {
	var all, regex bool
	cmd := &cobra.Command{Use: "kill [OPTIONS] CONTAINER [SIGNAL]", Short: "Signal a container's first process, by default SIGTERM",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: complete.None, DisableFlagsInUseLine: true}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "Signal all processes of the container")
	cmd.Flags().BoolVarP(&regex, "regex", "r", false, "Not supported")
	_ = cmd.Flags().MarkHidden("regex")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		if regex {
			return ui.Later("oci kill --regex", "Signal one container after the other.")
		}
		sig := syscall.SIGTERM
		if len(args) > 1 && args[1] == "0" { // only asks whether it is there
			sig = 0
		} else if len(args) > 1 {
			var err error
			if sig, err = sys.ParseSignal(args[1]); err != nil {
				return err
			}
		}
		return r.Kill(cmd.Context(), args[0], sig, all)
	})
	return cmd
}

func (g *globals) remove() *cobra.Command {
	var force bool
	cmd := one("delete [OPTIONS] CONTAINER", "Remove a container that has stopped", 1)
	cmd.Flags().BoolVarP(&force, "force", "f", false, "Kill a running container first; a missing one is no error")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		return r.Delete(cmd.Context(), args[0], force)
	})
	return cmd
}

func (g *globals) ps() *cobra.Command {
	var format string
	cmd := &cobra.Command{Use: "ps [OPTIONS] CONTAINER", Short: "Print the pids of a container's processes",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: complete.None, DisableFlagsInUseLine: true}
	cmd.Flags().SetInterspersed(false)
	cmd.Flags().StringVarP(&format, "format", "f", "table", "`Format`: table, json")
	cmd.RunE = g.do(func(_ *cobra.Command, r *ociruntime.Runtime, args []string) error {
		if len(args) > 1 {
			return ui.Later("oci ps with options of ps", "'oci ps --format json' prints the pids, for ps -p.")
		}
		pids, err := r.Ps(args[0])
		if err != nil {
			return err
		}
		switch format {
		case "json":
			if pids == nil {
				pids = []int{}
			}
			return json.NewEncoder(g.s.Out).Encode(pids)
		case "table":
			fmt.Fprintln(g.s.Out, "PID")
			for _, p := range pids {
				fmt.Fprintln(g.s.Out, p)
			}
			return nil
		}
		return fmt.Errorf("unknown format %q: table and json are known", format)
	})
	return cmd
}

func (g *globals) pause(paused bool) *cobra.Command {
	cmd := one("pause CONTAINER", "Freeze a container's processes", 1)
	if !paused {
		cmd = one("resume CONTAINER", "Thaw a container's processes", 1)
	}
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		return r.SetPaused(cmd.Context(), args[0], paused)
	})
	return cmd
}

// checkpoint is a command that needs criu.
func (g *globals) checkpoint(name string) *cobra.Command {
	return &cobra.Command{Use: name, Hidden: true, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error {
		return ui.Later("oci "+name, "'cais oci pause' freezes a container in memory.")
	}}
}
