package system

import (
	"fmt"
	"io"

	"cais.dev/cais/pkg/engine"
)

// Emulated is the version of Docker's engine that scripts are told: they
// compare it with the least one they work with.
const Emulated = "28.5.2"

// VersionLine prints what --version prints.
func VersionLine(w io.Writer, e *engine.Engine) error {
	b := e.Build()
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	var err error
	if e.Options().Docker {
		_, err = fmt.Fprintf(w, "Docker version %s, build %s (cais %s)\n", Emulated, commit, b.Version)
	} else {
		_, err = fmt.Fprintf(w, "cais version %s, build %s\n", b.Version, commit)
	}
	return err
}
