package cli

import (
	"context"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/run"
)

// IsCleanup reports whether the program was started to clean up after a
// container: by argv[0] alone, so that no user input selects it.
func IsCleanup(p Process) bool { return p.Args[0] == run.CleanupRole }

// Cleanup does that work and returns the exit code.
func Cleanup(ctx context.Context, p Process) int {
	ctx, stop := ui.WithSignals(ctx)
	defer stop()
	e := engine.New(engine.Options{Build: p.Build, Getenv: p.Getenv, Args: p.Args, Environ: p.Environ, Stderr: p.Streams.Err})
	return ui.Reporting{Failure: ui.CodeFailure}.Report(ctx, p.Streams.Err, e.Cleanup(ctx, p.Args))
}
