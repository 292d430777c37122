// Command cais runs containers without a daemon.
package main

import (
	"context"
	"os"

	"cais.dev/cais/pkg/cli"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// Set by the linker: see the Makefile.
var (
	version = "0.1.0-dev"
	commit  string
	date    string
)

func main() {
	os.Exit(run())
}

func run() int {
	ctx, stop := ui.WithSignals(context.Background())
	defer stop()
	return cli.Main(ctx, cli.Process{
		Args:    os.Args,
		Getenv:  os.Getenv,
		Streams: ui.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
		Build:   engine.Build{Version: version, Commit: commit, Time: date},
	})
}
