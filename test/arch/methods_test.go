package arch

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestMethodsByName fails if something in the program calls methods by names
// that are known only when it runs, as text/template does: the linker then keeps
// every exported method there is, 2.7 MB.
func TestMethodsByName(t *testing.T) {
	// -gcflags makes main another package to go's cache, which repeats the linker's
	// 97,000 lines to whoever builds the same one.
	out, err := exec.Command("go", "build", "-trimpath", "-o", t.TempDir()+"/cais", "-gcflags=-e", "-ldflags=-dumpdep", "cais.dev/cais/cmd/cais").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out[:min(len(out), 2000)])
	}
	seen := map[string]bool{}
	for line := range bytes.Lines(out) {
		from, _, ok := strings.Cut(string(line), " <ReflectMethod> -> ")
		if ok && !strings.HasPrefix(from, "reflect.") && !seen[from] {
			seen[from] = true
			t.Errorf("%s calls methods by name: go build -ldflags=-dumpdep says who calls it", from)
		}
	}
}
