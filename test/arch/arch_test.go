// Package arch holds the rules of docs/ARCHITECTURE.md as tests: who may import
// whom, what a monitor may reach, and what no package may do.
package arch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/test/golden"
)

const module = "cais.dev/cais"

// pkg is what go list says of one package.
type pkg struct {
	ImportPath, Dir, Name, Doc    string
	Standard                      bool
	GoFiles, TestGoFiles          []string
	XTestGoFiles, Imports, Deps   []string
	Module                        *struct{ Path, Version string }
	rel                           string // ImportPath below the module
	Error                         *struct{ Err string }
	TestImports, XTestImports     []string
	IgnoredGoFiles, CompiledFiles []string `json:"-"`
}

// load lists the packages that patterns name, with deps also what they reach. It
// looks at each file's state, because the test cache cannot see what go list read.
func load(t *testing.T, deps bool, env []string, patterns ...string) map[string]*pkg {
	t.Helper()
	args := []string{"list", "-json=ImportPath,Dir,Name,Doc,Standard,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps,Module,TestImports,XTestImports"}
	if deps {
		args = append(args, "-deps")
	}
	cmd := exec.Command("go", append(args, patterns...)...)
	cmd.Dir = "../.."
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, &stderr)
	}
	found := map[string]*pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		if err := d.Decode(p); errors.Is(err, io.EOF) {
			return found
		} else if err != nil {
			t.Fatal(err)
		}
		p.rel = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		found[p.ImportPath] = p
		if !p.Standard {
			for _, f := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
				if _, err := os.Stat(filepath.Join(p.Dir, f)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// program lists the packages that the program may be made of.
func program(t *testing.T) map[string]*pkg {
	t.Helper()
	all := load(t, false, nil, "./...")
	maps.DeleteFunc(all, func(_ string, p *pkg) bool {
		return !strings.HasPrefix(p.rel, "pkg/") && !strings.HasPrefix(p.rel, "cmd/")
	})
	return all
}

// layers places every package of the program. An import goes to a lower layer,
// or to a sibling that siblings allows. R is what a monitor is made of: low
// enough for everybody, and held to a list of its own by TestRole.
var layers = map[string]int{
	"pkg/atomicfile": 0, "pkg/compress": 0, "pkg/dbus": 0, "pkg/errs": 0, "pkg/lock": 0, "pkg/plainjson": 0,
	"pkg/run/launch/nofile": 0, "pkg/sys": 0, "pkg/sys/raw": 0, "pkg/tmpl": 0, "pkg/units": 0,

	"pkg/build/dockerfile": 1, "pkg/build/gitref": 1, "pkg/build/graph": 1, "pkg/build/ignore": 1,
	"pkg/build/progress": 1, "pkg/config": 1, "pkg/container": 1, "pkg/docker": 1, "pkg/network": 1,
	"pkg/network/loop": 1, "pkg/network/netlink": 1, "pkg/network/netns": 1, "pkg/network/nft": 1,
	"pkg/network/sock": 1, "pkg/oci": 1, "pkg/run/plan": 1, "pkg/run/wire": 1, "pkg/seccomp": 1,
	"pkg/signature": 1,

	"pkg/build/cache": 2, "pkg/build/files": 2, "pkg/build/source": 2, "pkg/cdi": 2, "pkg/cgroup": 2,
	"pkg/events": 2, "pkg/layer/changes": 2, "pkg/layer/chunked": 2, "pkg/layer/merged": 2, "pkg/layer/tarsplit": 2,
	"pkg/layer/tree": 2, "pkg/logs": 2, "pkg/logs/forward": 2, "pkg/logs/jsonfile": 2, "pkg/network/dns": 2,
	"pkg/network/gateway": 2, "pkg/network/plane": 2, "pkg/network/relay": 2, "pkg/network/space": 2,
	"pkg/registry": 2, "pkg/run/launch": 2, "pkg/run/lower": 2, "pkg/run/monitor": 2, "pkg/run/probe": 2,
	"pkg/run/procs": 2, "pkg/run/role": 2, "pkg/run/session": 2, "pkg/run/transfer": 2, "pkg/secret": 2, "pkg/storage": 2,
	"pkg/storage/unpack": 2, "pkg/userns": 2, "pkg/volume": 2,

	"pkg/boot": 3, "pkg/build": 3, "pkg/build/export": 3, "pkg/commit": 3, "pkg/connect": 3, "pkg/doctor": 3, "pkg/ociruntime": 3,
	"pkg/pull": 3, "pkg/push": 3, "pkg/run": 3,

	"pkg/engine": 4,

	"cmd/cais": 5, "cmd/cais-netstack": 5, "cmd/cais-verify": 5, "pkg/cli": 5, "pkg/cli/build": 5, "pkg/cli/complete": 5,
	"pkg/cli/container": 5, "pkg/cli/flags": 5, "pkg/cli/image": 5, "pkg/cli/network": 5, "pkg/cli/oci": 5,
	"pkg/cli/secret": 5, "pkg/cli/system": 5, "pkg/cli/ui": 5, "pkg/cli/volume": 5,
}

// siblings are the imports inside a layer that are wanted.
var siblings = map[string][]string{
	"cmd/cais":             {"pkg/cli", "pkg/cli/ui"},
	"pkg/build/dockerfile": {"pkg/oci", "pkg/build/graph", "pkg/build/gitref"},
	"pkg/build/export":     {"pkg/push", "pkg/build"},
	"pkg/build/files":      {"pkg/build/source", "pkg/layer/tree", "pkg/storage/unpack"},
	"pkg/build/graph":      {"pkg/oci"},
	"pkg/cli":              {"pkg/cli/build", "pkg/cli/container", "pkg/cli/network", "pkg/cli/image", "pkg/cli/secret", "pkg/cli/system", "pkg/cli/oci", "pkg/cli/volume", "pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/build":        {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/complete":     {"pkg/cli/ui"},
	"pkg/cli/container":    {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/flags":        {"pkg/cli/ui"},
	"pkg/cli/image":        {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/network":      {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/oci":          {"pkg/cli/ui", "pkg/cli/complete"},
	"pkg/cli/secret":       {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/system":       {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/cli/volume":       {"pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"},
	"pkg/compress":         {"pkg/errs"},
	"pkg/container":        {"pkg/oci", "pkg/run/plan"},
	"pkg/docker":           {"pkg/oci", "pkg/container", "pkg/run/plan", "pkg/network"},
	"pkg/events":           {"pkg/logs/jsonfile"},
	"pkg/layer/changes":    {"pkg/layer/tree", "pkg/layer/tarsplit"},
	"pkg/lock":             {"pkg/errs", "pkg/sys"},
	"pkg/logs":             {"pkg/logs/jsonfile"},
	"pkg/network":          {"pkg/run/plan"},
	"pkg/network/gateway":  {"pkg/network/relay"},
	"pkg/network/nft":      {"pkg/network/netlink"},
	"pkg/network/plane":    {"pkg/network/relay", "pkg/network/gateway"},
	"pkg/network/space":    {"pkg/network/plane"},
	"pkg/run":              {"pkg/connect"},
	"pkg/run/monitor":      {"pkg/run/launch", "pkg/logs/jsonfile", "pkg/logs/forward", "pkg/network/plane", "pkg/network/dns"},
	"pkg/run/plan":         {"pkg/oci"},
	"pkg/run/role":         {"pkg/run/monitor", "pkg/run/launch"},
	"pkg/run/session":      {"pkg/userns"},
	"pkg/signature":        {"pkg/oci"},
	"pkg/storage":          {"pkg/storage/unpack", "pkg/layer/changes", "pkg/layer/chunked"},
	"pkg/storage/unpack":   {"pkg/layer/tarsplit"},
	"pkg/sys":              {"pkg/errs", "pkg/sys/raw"},
	"pkg/userns":           {"pkg/run/launch"},
	"pkg/volume":           {"pkg/layer/tree"},
}

func TestDirection(t *testing.T) {
	packages := program(t)
	for _, path := range slices.Sorted(maps.Keys(packages)) {
		p := packages[path]
		if strings.HasSuffix(p.rel, "test") {
			continue // systest, storagetest: only tests import them, TestTestOnly sees to it
		}
		layer, ok := layers[p.rel]
		if !ok {
			t.Errorf("%s has no place: put it into layers, and into docs/ARCHITECTURE.md", p.rel)
			continue
		}
		for _, imp := range p.Imports {
			rel, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			to, ok := layers[rel]
			if ok && (to < layer || slices.Contains(siblings[p.rel], rel)) {
				continue
			}
			t.Errorf("%s imports %s: imports go down only (layer %d to %d)", p.rel, rel, layer, to)
		}
	}
}

// Every place in the picture is taken, so no rule checks nothing, and the page says
// what is there.
func TestLayersExist(t *testing.T) {
	packages, page := program(t), read(t, "../../docs/ARCHITECTURE.md")
	for rel := range layers {
		if packages[module+"/"+rel] == nil {
			t.Errorf("%s: no such package", rel)
		}
		if !strings.Contains(page, "`"+rel+"`") {
			t.Errorf("docs/ARCHITECTURE.md does not say what %s holds", rel)
		}
	}
}

// gates: one door per module, so that replacing it means changing the packages
// behind one door.
var gates = []struct {
	imported string // an import path, or a prefix of one if it ends in /
	by       []string
	why      string
}{
	{"go.podman.io/storage/", []string{"pkg/storage"}, "its interface has 89 methods"},
	{"github.com/google/go-containerregistry/", []string{"pkg/registry"}, "one edge to the network; images are oci values elsewhere"},
	{"github.com/opencontainers/runtime-spec/", []string{"pkg/build", "pkg/cdi", "pkg/run", "pkg/run/plan", "pkg/run/lower", "pkg/cgroup", "pkg/ociruntime"}, "only who makes or lowers a spec knows it"},
	{"golang.org/x/sys/", []string{"pkg/sys", "pkg/build/source", "pkg/build/export", "pkg/storage", "pkg/storage/unpack", "pkg/layer/tree", "pkg/layer/changes", "pkg/layer/merged", "pkg/build/files", "pkg/cgroup", "pkg/userns", "pkg/volume", "pkg/run/transfer", "pkg/run/lower", "pkg/run/session"}, "system calls live at the edges"},
	{"github.com/spf13/", []string{"pkg/cli", "pkg/cli/build", "pkg/cli/container", "pkg/cli/network", "pkg/cli/image", "pkg/cli/secret", "pkg/cli/system", "pkg/cli/oci", "pkg/cli/volume", "pkg/cli/ui", "pkg/cli/flags", "pkg/cli/complete"}, "a service knows no flags"},
	{"gvisor.dev/gvisor/", []string{"cmd/cais-netstack"}, "4 MB and half a millisecond in every command"},
	{"github.com/ProtonMail/go-crypto/", []string{"cmd/cais-verify"}, "only who checks signatures made with GPG pays for it"},
	{"go.yaml.in/yaml/", []string{"cmd/cais-verify", "pkg/cdi"}, "who reads files of others in YAML"},
	{"github.com/spf13/cobra/doc", nil, "it belongs to docs/man/gen"},
	{"github.com/moby/buildkit/", []string{"pkg/build/dockerfile"}, "the parser's packages; the rest of BuildKit is not for us"},
	{"github.com/moby/profiles/", nil, "the profile is checked in; a test compares it"},
}

func TestGates(t *testing.T) {
	for _, p := range program(t) {
		for _, imp := range p.Imports {
			i := slices.IndexFunc(gates, func(g struct {
				imported string
				by       []string
				why      string
			}) bool {
				return imp == g.imported || strings.HasSuffix(g.imported, "/") && strings.HasPrefix(imp+"/", g.imported)
			})
			if i >= 0 && !slices.Contains(gates[i].by, p.rel) {
				t.Errorf("%s imports %s: %s", p.rel, imp, gates[i].why)
			}
		}
	}
}

// reach lists what packages must not reach, even through others.
var reach = []struct{ pkg, never, why string }{
	{"pkg/run/role", "github.com/", "a monitor holds 2 MB"},
	{"pkg/run/role", "golang.org/", "a monitor holds 2 MB"},
	{"pkg/run/role", "encoding/json", "a monitor holds 2 MB"},
	{"pkg/run/role", "fmt", "a monitor holds 2 MB"},
	{"pkg/run/role", "log/slog", "a monitor holds 2 MB"},
	{"pkg/run/role", "regexp", "a monitor holds 2 MB"},
	{"pkg/run/role", "net", "a monitor holds 2 MB"},
	{"pkg/run/plan", "os/exec", "planning is pure"},
	{"pkg/run/plan", "net/http", "planning is pure"},
	{"pkg/run/plan", module + "/pkg/sys", "planning is pure"},
	{"pkg/oci", "os/exec", "values are pure"},
	{"pkg/build/graph", "os/exec", "values are pure"},
	{"pkg/build/dockerfile", "os/exec", "planning is pure"},
	{"pkg/build/dockerfile", "net/http", "planning is pure"},
	{"pkg/build/dockerfile", module + "/pkg/sys", "planning is pure"},
	{"pkg/build/dockerfile", "google.golang.org/protobuf/internal/", "stub/protobuf stands in for it: 0.3 ms of every command"},
	{"pkg/docker", "os/exec", "values are pure"},
	{"pkg/seccomp", "os/exec", "compiling a filter is pure"},
	{"pkg/run/wire", "os/exec", "messages are pure"},
	{"pkg/run", "github.com/spf13/", "a service knows no flags"},
	{"pkg/run", "go.podman.io/", "run never opens the store through the library"},
	{"pkg/pull", "github.com/spf13/", "a service knows no flags"},
	{"pkg/pull", module + "/pkg/storage", "pull says what it needs of a store; engine fills it"},
	{"pkg/run", module + "/pkg/storage", "run says what it needs of images; engine fills it"},
	{"pkg/run", module + "/pkg/registry", "engine joins run and pull"},
	{"pkg/build", "github.com/spf13/", "a service knows no flags"},
	{"pkg/build", "go.podman.io/", "build says what it needs of a store; engine fills it"},
	{"pkg/build", module + "/pkg/registry", "engine joins build and pull"},
	{"cmd/cais", "github.com/spf13/cobra/doc", "every command pays for what is linked"},
	{"cmd/cais", "testing", "test code is not linked"},
}

func TestReach(t *testing.T) {
	packages := program(t)
	for _, r := range reach {
		p := packages[module+"/"+r.pkg]
		if p == nil {
			t.Errorf("%s: no such package, so its rule checks nothing", r.pkg)
			continue
		}
		for _, dep := range p.Deps {
			if dep == r.never || strings.HasPrefix(dep, strings.TrimSuffix(r.never, "/")+"/") && (strings.HasSuffix(r.never, "/") || strings.Contains(r.never, "/pkg/")) {
				t.Errorf("%s reaches %s: %s", r.pkg, dep, r.why)
				break
			}
		}
	}
}

// roleMayImport is what the packages of a monitor may import of the standard
// library themselves; what these reach in turn is held by TestRole's list.
var roleMayImport = []string{"errors", "io", "io/fs", "os", "path/filepath", "runtime", "slices", "strconv", "strings", "sync", "syscall", "time", "unsafe"}

func TestRole(t *testing.T) {
	packages := load(t, true, nil, "./pkg/run/...")
	role := packages[module+"/pkg/run/role"]
	if role == nil {
		t.Fatal("pkg/run/role: no such package")
	}
	var reached []string
	for _, dep := range append(role.Deps, role.ImportPath) {
		p := packages[dep]
		reached = append(reached, dep)
		if p == nil || p.Standard {
			continue
		}
		for _, imp := range p.Imports {
			if ip := packages[imp]; ip != nil && ip.Standard && !slices.Contains(roleMayImport, imp) {
				t.Errorf("%s imports %s, and a monitor pays for it", p.rel, imp)
			}
		}
	}
	slices.Sort(reached)
	golden.Text(t, "testdata/role.txt", strings.Join(reached, "\n")+"\n")
}

// The pure packages also build where nothing of Linux is.
func TestPureBuildElsewhere(t *testing.T) {
	for _, rel := range []string{"pkg/run/plan", "pkg/run/wire", "pkg/oci", "pkg/docker", "pkg/seccomp", "pkg/build/graph", "pkg/build/gitref", "pkg/build/dockerfile"} {
		t.Run(rel, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("go", "build", "./"+rel)
			cmd.Dir = "../.."
			cmd.Env = append(os.Environ(), "GOOS=darwin", "GOARCH=arm64", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// Test helpers stay out of the program.
func TestTestOnly(t *testing.T) {
	for _, p := range program(t) {
		for _, imp := range p.Imports {
			rel, ours := strings.CutPrefix(imp, module+"/")
			if ours && (strings.HasPrefix(rel, "test/") || strings.HasSuffix(rel, "test")) && !strings.HasSuffix(p.rel, "test") {
				t.Errorf("%s imports %s, which is for tests", p.rel, rel)
			}
		}
	}
}

// untested packages are values alone, or are tested by those who use them.
var untested = map[string]bool{
	"cmd/cais-netstack":   true, // package plane's tests run it
	"pkg/network/nettest": true, // it is for tests
	"cmd/cais":            true, // test/e2e runs it
	"pkg/cli/complete":    true, // the system script does
	"pkg/cli/system":      true, // the same, and pkg/cli
}

// Each package has a test beside it, or one above it that is for it.
func TestEveryPackageHasATest(t *testing.T) {
	for _, p := range program(t) {
		if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 && !untested[p.rel] {
			t.Errorf("%s has no test", p.rel)
		}
	}
}
