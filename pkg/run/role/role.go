// Package role turns this process into a container's monitor, or into the
// fallback init, before the rest of the program is initialised. It is chosen by
// os.Args[0], so that nothing a user types can select it. What this package
// reaches, every running container pays for.
package role

import (
	"os"

	"cais.dev/cais/pkg/run/launch"
	"cais.dev/cais/pkg/run/monitor"
)

// The names of the roles, as os.Args[0].
const (
	Monitor = "cais-monitor"
	Init    = launch.Init
	// Cleanup is a whole program: main looks for it, this package does not.
	Cleanup = "cais-cleanup"
)

func init() {
	switch os.Args[0] {
	case Monitor:
		os.Exit(monitor.Main())
	case Init:
		os.Exit(launch.Main())
	}
}
