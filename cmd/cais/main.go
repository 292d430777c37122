// Command cais runs containers without a daemon.
package main

import (
	"context"
	"os"
	"syscall"

	"cais.dev/cais/pkg/cli"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	_ "cais.dev/cais/pkg/run/role" // turns a re-exec into a monitor before anything below is initialised
	"cais.dev/cais/pkg/storage"
)

// Set by the linker: see the Makefile.
var (
	version = "0.1.0-dev"
	commit  string
	date    string
)

func main() {
	if storage.Reexec() { // first: the library starts this program to unpack in a chroot
		return
	}
	// What cais makes is at least its own: under umask 777 it could not read it again.
	syscall.Umask(syscall.Umask(0) &^ 0o700)
	os.Exit(run())
}

func run() int {
	ctx := context.Background()
	p := cli.Process{
		Args:    os.Args,
		Environ: os.Environ(),
		Getenv:  os.Getenv,
		Streams: ui.Streams{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
		Build:   engine.Build{Version: version, Commit: commit, Time: date},
	}
	if cli.IsCleanup(p) {
		return cli.Cleanup(ctx, p)
	}
	return cli.Main(ctx, p)
}
