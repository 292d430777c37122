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
	report := ui.Reporting{Failure: ui.CodeFailure}
	g, words, err := parseGlobals(run.CleanupRole, p.Args[1:])
	if err != nil {
		return report.Report(ctx, p.Streams.Err, err)
	}
	o := g.options()
	o.Build, o.Getenv, o.Args, o.Environ, o.Stderr = p.Build, p.Getenv, p.Args, p.Environ, p.Streams.Err
	return report.Report(ctx, p.Streams.Err, engine.New(o).Cleanup(ctx, words))
}
