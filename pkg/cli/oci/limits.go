package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/ociruntime"
	"cais.dev/cais/pkg/units"
)

func (g *globals) update() *cobra.Command {
	var file string
	var u ociruntime.Limits
	cmd := one("update [OPTIONS] CONTAINER", "Change a container's limits", 1)
	f := cmd.Flags()
	f.StringVarP(&file, "resources", "r", "", "`File` with the limits as in config.json; - is standard input")
	sizes := map[string]*string{}
	for _, name := range []string{"memory", "memory-reservation", "memory-swap", "kernel-memory", "kernel-memory-tcp"} {
		sizes[name] = f.String(name, "", "Limit in `bytes`, or with a unit")
	}
	numbers := map[string]*int64{}
	for _, name := range []string{"blkio-weight", "cpu-period", "cpu-quota", "cpu-burst", "cpu-share", "cpu-rt-period", "cpu-rt-runtime", "cpu-idle", "pids-limit"} {
		numbers[name] = f.Int64(name, 0, "The `number` that the cgroup gets")
	}
	f.StringVar(&u.Cpus, "cpuset-cpus", "", "Processors, as a `list`")
	f.StringVar(&u.Mems, "cpuset-mems", "", "Memory nodes, as a `list`")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		if file != "" {
			text, err := readAll(g.s.In, file)
			if err != nil {
				return err
			}
			u.JSON = text
		}
		u.Numbers = map[string]int64{}
		for name, v := range numbers {
			if f.Changed(name) {
				u.Numbers[name] = *v
			}
		}
		for name, v := range sizes {
			if !f.Changed(name) {
				continue
			}
			n := int64(-1)
			if *v != "-1" {
				var err error
				if n, err = units.ParseSize(*v); err != nil {
					return fmt.Errorf("--%s: %w", name, err)
				}
			}
			u.Numbers[name] = n
		}
		return r.Limit(cmd.Context(), args[0], u)
	})
	return cmd
}

func readAll(in io.Reader, file string) ([]byte, error) {
	if file == "-" {
		return io.ReadAll(io.LimitReader(in, 1<<20))
	}
	return os.ReadFile(file)
}

func (g *globals) events() *cobra.Command {
	var stats bool
	var interval time.Duration
	cmd := one("events [OPTIONS] CONTAINER", "Print what a container uses, again and again", 1)
	cmd.Flags().BoolVar(&stats, "stats", false, "Print it once")
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Second, "The `time` between two lines")
	cmd.RunE = g.do(func(cmd *cobra.Command, r *ociruntime.Runtime, args []string) error {
		if interval <= 0 {
			return errors.New("the interval must be greater than 0")
		}
		for {
			s, err := r.Event(args[0])
			if err != nil {
				return err
			}
			if err := json.NewEncoder(g.s.Out).Encode(s); err != nil || stats {
				return err
			}
			select {
			case <-cmd.Context().Done():
				return nil
			case <-time.After(interval):
			}
		}
	})
	return cmd
}

func (g *globals) spec() *cobra.Command {
	var bundle string
	var rootless bool
	cmd := one("spec [OPTIONS]", "Write a config.json to begin with", 0)
	cmd.Flags().StringVarP(&bundle, "bundle", "b", ".", "`Directory` to write it to")
	cmd.Flags().BoolVar(&rootless, "rootless", false, "For a user other than root")
	cmd.RunE = g.do(func(*cobra.Command, *ociruntime.Runtime, []string) error {
		return ociruntime.WriteSpec(bundle, rootless || g.rootless == "true")
	})
	return cmd
}

func (g *globals) features() *cobra.Command {
	cmd := one("features", "Print what this runtime can do, as JSON", 0)
	cmd.RunE = g.do(func(*cobra.Command, *ociruntime.Runtime, []string) error {
		return printJSON(g.s.Out, ociruntime.Features(g.e.Build().Version))
	})
	return cmd
}
