package system

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/boot"
	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/doctor"
	"cais.dev/cais/pkg/engine"
)

// NewDoctor makes "doctor".
func NewDoctor(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	var facts bool
	cmd := &cobra.Command{
		Use:               "doctor [OPTIONS]",
		Short:             "Say what this machine cannot give to containers, and how to mend it",
		Long:              "Look at this machine, and print a line for each thing that containers need of it: ok, note (it works, and\nsomething is given up) or bad (containers do not run), with the command that mends it.\nThe exit code is 1 if anything is bad.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			paths, err := e.Paths()
			if err != nil {
				return err
			}
			f := doctor.Read(paths, e.Getenv, 0, false)
			if containers, err := e.Containers(); err == nil {
				f.WantsBoot, _ = containers.WantsBoot(cmd.Context()) // what cannot be read is told by ps
			}
			if networks, err := e.Connections(); err == nil {
				if f.Firewalls, err = networks.Firewalls(cmd.Context()); err != nil {
					e.Log().Warn("the firewalls cannot be looked at: " + err.Error())
				}
				f.RelaysPorts, _ = networks.RelaysPorts() // without rules at all, a start says more
			}
			o, err := bootOptions(e)
			if err != nil {
				return err
			}
			f.BootEnabled = boot.Enabled(cmd.Context(), o)
			if facts {
				return writeJSON(s, f)
			}
			list := doctor.Judge(f)
			switch format {
			case "":
				for _, l := range list {
					fmt.Fprintf(s.Out, "%-4s  %s: %s\n", l.Level, l.Topic, l.Text)
					if l.Fix != "" {
						fmt.Fprintf(s.Out, "      %s\n", l.Fix)
					}
				}
			case "json":
				err = writeJSON(s, list)
			default:
				err = fmt.Errorf("unknown format %q: json is known", format)
			}
			if err == nil && doctor.Worst(list) == doctor.Bad {
				err = &ui.ExitError{Code: 1}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "`Format`: json")
	cmd.Flags().BoolVar(&facts, "facts", false, "Print what was read of the machine, for a report")
	return cmd
}

func writeJSON(s ui.Streams, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = s.Out.Write(append(text, '\n'))
	return err
}

// bootOptions describe this program and its user.
func bootOptions(e *engine.Engine) (boot.Options, error) {
	exe, err := os.Executable()
	if err != nil {
		return boot.Options{}, err
	}
	o := boot.Options{
		UID: os.Geteuid(), User: e.Getenv("USER"), Home: e.Getenv("HOME"), Config: e.Getenv("XDG_CONFIG_HOME"),
		Command: append([]string{exe}, e.GlobalFlags()...), Run: boot.Run,
	}
	for _, name := range []string{"CAIS_ROOT", "XDG_DATA_HOME", "CONTAINERS_STORAGE_CONF", "DOCKER_CONFIG"} {
		if v := e.Getenv(name); v != "" {
			if abs, err := filepath.Abs(v); err == nil {
				o.Environ = append(o.Environ, name+"="+abs)
			}
		}
	}
	_, err = os.Stat("/run/systemd/system")
	o.Systemd = err == nil
	return o, nil
}

// NewBootEnable makes "system boot enable".
func NewBootEnable(e *engine.Engine, s ui.Streams) *cobra.Command {
	return bootCommand("enable", "Have containers that are to run always started after a reboot", func(cmd *cobra.Command) error {
		o, err := bootOptions(e)
		if err != nil {
			return err
		}
		did, err := boot.Enable(cmd.Context(), o)
		if err != nil {
			return err
		}
		fmt.Fprintln(s.Out, did)
		return nil
	})
}

// NewBootDisable makes "system boot disable".
func NewBootDisable(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return bootCommand("disable", "Undo enable", func(cmd *cobra.Command) error {
		o, err := bootOptions(e)
		if err != nil {
			return err
		}
		return boot.Disable(cmd.Context(), o)
	})
}

// NewBootStatus makes "system boot status".
func NewBootStatus(e *engine.Engine, s ui.Streams) *cobra.Command {
	return bootCommand("status", "Say whether it is enabled; the exit code is 1 if not", func(cmd *cobra.Command) error {
		o, err := bootOptions(e)
		if err != nil {
			return err
		}
		if !boot.Enabled(cmd.Context(), o) {
			fmt.Fprintln(s.Out, "disabled")
			return &ui.ExitError{Code: 1}
		}
		fmt.Fprintln(s.Out, "enabled")
		return nil
	})
}

// NewBootStart makes "system boot start".
func NewBootStart(e *engine.Engine, s ui.Streams) *cobra.Command {
	return bootCommand("start", "Start the containers that are to run always, as after a reboot", func(cmd *cobra.Command) error {
		containers, err := e.Containers()
		if err != nil {
			return err
		}
		names, err := containers.BootStart(cmd.Context())
		if len(names) > 0 {
			fmt.Fprintln(s.Out, strings.Join(names, "\n"))
		}
		return err
	})
}

// NewBootStop makes "system boot stop".
func NewBootStop(e *engine.Engine, _ ui.Streams) *cobra.Command {
	return bootCommand("stop", "Stop them, as before a reboot: start brings them back", func(cmd *cobra.Command) error {
		containers, err := e.Containers()
		if err != nil {
			return err
		}
		return containers.BootStop(cmd.Context())
	})
}

func bootCommand(name, short string, run func(*cobra.Command) error) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, ValidArgsFunction: complete.None,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := run(cmd)
			if errors.Is(err, os.ErrNotExist) && name == "disable" {
				return nil
			}
			return err
		}}
}
