package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/rogpeppe/go-internal/testscript"
)

// next sets $NEXT to a program of these sources whose wire and record versions are
// raised, as those of a later cais.
func (b *bench) next(ts *testscript.TestScript, _ bool, _ []string) {
	path, err := b.buildNext()
	ts.Check(err)
	ts.Setenv("NEXT", path)
}

// buildNext builds it, once. An ordinary user's process finds it built by root's.
func (b *bench) buildNext() (string, error) {
	path := filepath.Join(filepath.Dir(b.cais), "cais-next")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "caisnext", "-ldflags", "-s -w", "-o", path, "./cmd/cais")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the later cais: %w\n%s", err, out)
	}
	return path, nil
}
