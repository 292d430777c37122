package launch

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/run/wire"
)

// A set-uid program gets the arguments that we made, and none of the user's variables.
func TestHelpersGetNothingOfTheUsers(t *testing.T) {
	t.Setenv("SHADOW", "hostile")
	path := filepath.Join(t.TempDir(), "helper")
	script := "#!/bin/sh\necho \"$* | $SHADOW | $HOME | $PATH\"\nexit 1\n"
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", "/hostile") // the shell has one of its own
	h, err := startHelperAt(path, "newuidmap", "42", []wire.IDMap{{Inside: 0, Outside: 1000, Count: 1}, {Inside: 1, Outside: 100000, Count: 65536}})
	if err = h.wait(err); err == nil || !strings.HasPrefix(err.Error(), "newuidmap: 42 0 1000 1 1 100000 65536 |  |  | ") || strings.Contains(err.Error(), "hostile") {
		t.Errorf("it got %v", err)
	}
}

// The helper is the system's: PATH is the user's.
func TestHelpersAreTheSystems(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "newuidmap"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if path, err := LookHelper("newuidmap"); strings.HasPrefix(path, dir) {
		t.Errorf("found %s, %v", path, err)
	}
}
