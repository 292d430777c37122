package e2e

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
)

// TestTorture has six terminals use one store at once, with the same few names, while
// commands, monitors and whatever else is a process of the store's is killed. Every
// command comes to its end with what it was to do or with an error that says
// what another terminal did; then nothing is left.
func TestTorture(t *testing.T) {
	if os.Getenv("CAIS_TORTURE") == "" {
		t.Skip("only in make torture")
	}
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	srv := httptest.NewServer(registry.New(registry.Logger(quiet())))
	defer srv.Close()
	r := &rioters{dir: buildContext(t, "FROM busybox\nRUN cat /proc/sys/kernel/random/uuid > /uuid\nCOPY file /\n")}
	r.tar = filepath.Join(b.images, "busybox.tar")
	r.host = strings.TrimPrefix(srv.URL, "http://")
	b.pushMulti(t, r.host+"/multi:1")
	openAbove(t, filepath.Join(r.dir, "Dockerfile"))
	persons := []person{b.person}
	if b.person == asRoot {
		persons = []person{asRoot, withSubs}
	}
	for _, who := range persons {
		t.Run(string(who), func(t *testing.T) { r.riot(t, b.storeAs(t, who, true)) })
	}
}

// rioters are the terminals; all use one registry, one context and one archive.
type rioters struct{ host, dir, tar string }

// riot is six terminals with 250 commands each, then one that clears away.
func (r *rioters) riot(t *testing.T, s *store) {
	must := s.must(t)
	seed := uint64(time.Now().UnixNano())
	t.Log("seed", seed)
	var terminals sync.WaitGroup
	for n := range uint64(6) {
		terminals.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, n))
			for range 250 {
				if rnd.IntN(12) == 0 {
					s.killAny(rnd)
				}
				r.step(t, s, rnd)
			}
		})
	}
	terminals.Wait()

	// All goes on, and away.
	if got := must("run", "--rm", "busybox", "cat", "/srv/hello"); got != "hello from the second layer\n" {
		t.Errorf("the next run says %q", got)
	}
	if err := s.removeContainers(); err != nil {
		t.Error(err)
	}
	must("build", "-q", r.dir)
	must("system", "prune", "-af", "--volumes")
	must("volume", "prune", "-af")
	s.lapse(t)
	if out := must("system", "check"); out != "" {
		t.Errorf("system check: %s", out)
	}
	for _, list := range []string{"image", "volume"} {
		if out := must(list, "ls", "-q"); out != "" {
			t.Errorf("%s ls: %s", list, out)
		}
	}
	if out := must("network", "ls", "-q", "--filter", "type=custom"); out != "" {
		t.Errorf("network ls: %s", out)
	}
	for _, left := range s.buildLeftovers() {
		t.Error("left behind: ", left)
	}
	if err := s.leftovers(); err != nil {
		t.Errorf("left behind: %v", err)
	}
}

// killAny kills one process of the store's: a monitor, a command of another
// terminal, a container's program.
func (s *store) killAny(rnd *rand.Rand) {
	if all := s.processes(); len(all) > 0 {
		word, _, _ := strings.Cut(all[rnd.IntN(len(all))], " ")
		if pid, err := strconv.Atoi(word); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone
		}
	}
}

// othersDid is what a command may say when other terminals do the same, or kill.
var othersDid = regexp.MustCompile(`(?m)^(Error|ERROR: failed to build: failed to solve): (` + strings.Join([]string{
	`no such (container|object|image|volume): \S+`,
	`network \S+ not found`, `repository \S+ not found: name unknown`, `An image does not exist locally with the tag: \S+`,
	`network with name n\d already exists`, `endpoint with name c\d already exists in network n\d`,
	`container \w+ is not connected to network n\d`, `error while removing network: network n\d has active endpoints .*`,
	`container \S+ is (not running|not paused|already paused|restarting, wait until the container is running|paused, unpause the container before exec)`,
	`container \S+ is (created|running|paused|restarting): stop it first or use -f`,
	`cannot start a paused container, try unpause instead`, `container c\d was started by somebody else meanwhile`,
	`the container name "c\d" is already in use by container "\w+"; remove or rename it, or use --replace`,
	`renaming a container with the same name as its current name`,
	`(image|volume) \S+ is in use by container \S+.*`,
	`protect the image: no such image: .*, removed meanwhile\)`,
	`the container is (not running|paused, unpause the container before exec)`, `the container's monitor was killed`, `[a-z ]+: the child was ended by signal 9 \(killed\)`,
	`(push \S+: )?layer \w+: image \w+: its layer \w+ is not in the store`,
	`speak to the monitor: (connection reset by peer|broken pipe)`,
}, "|") + `)$`)

// step is one command, killed now and then.
func (r *rioters) step(t *testing.T, s *store, rnd *rand.Rand) {
	args := r.command(rnd)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if rnd.IntN(6) == 0 {
		time.AfterFunc(time.Duration(rnd.IntN(80))*time.Millisecond, cancel)
	}
	cmd := s.cmd(args...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = io.Discard, &said
	if args[0] == "system" {
		cmd.Stdout = &said
	}
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return
	}
	defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
	err := cmd.Wait()
	switch exit := (*exec.ExitError)(nil); {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		t.Errorf("cais %q does not end: %s", args, said.String())
	case err == nil:
	case !errors.As(err, &exit):
		t.Error(err)
	case exit.ExitCode() == -1 || exit.ExitCode() == 137: // it, or what it ran, was killed
	case !othersDid.MatchString(said.String()):
		t.Errorf("cais %q: %v: %s", args, err, said.String())
	}
}

// command is what a terminal does next.
func (r *rioters) command(rnd *rand.Rand) []string {
	any := func(of ...string) string { return of[rnd.IntN(len(of))] }
	made, names := r.host+"/made:1", []string{"c1", "c2", "c3"}
	c, v, n := any(names...), any("v1", "v2"), any("n1", "n2")
	image := any("busybox", "busybox", made, r.host+"/multi:1")
	lines := [][]string{
		{"run", "-d", "--name", c, "--network", n, "-v", v + ":/v", image, "sleep", "1000"},
		{"run", "-d", "--name", c, "-p", "80", "-v", "/anon", image, "sleep", "1000"},
		{"run", "-d", "--name", c, "--restart", "always", image, "sleep", "0.2"},
		{"run", "-d", "--name", c, "--rm", "--network", n, image, "sleep", "1000"},
		{"run", "--rm", image, "true"},
		{"run", "--rm", "--network", n, "-v", v + ":/etc", image, "true"},
		{"create", "--name", c, "--network", n, image, "sleep", "1000"},
		{"start", c}, {"start", c}, {"stop", "-t", "0", c}, {"restart", "-t", "0", c}, {"kill", c},
		{"pause", c}, {"unpause", c}, {"exec", c, "true"}, {"exec", c, "true"}, {"cp", c + ":/bin", "-"},
		{"rename", c, any(names...)}, {"update", "--restart", "no", c},
		{"rm", c}, {"rm", "-f", "-v", c}, {"container", "prune", "-f"},
		{"ps", "-a"}, {"logs", c}, {"inspect", c}, {"top", c}, {"stats", "--no-stream"}, {"diff", c}, {"port", c},
		{"pull", "-q", r.host + "/multi:1"}, {"load", "-q", "-i", r.tar}, {"rmi", any(made, r.host+"/multi:1")}, {"rmi", "-f", made},
		{"images"}, {"history", image}, {"tag", image, made}, {"push", "-q", made}, {"save", "-o", "/dev/null", image},
		{"commit", c, made}, {"image", "prune", "-f"},
		{"build", "-q", "-t", made, r.dir}, {"build", "-q", "--no-cache", r.dir}, {"builder", "prune", "-af"}, {"builder", "du"},
		{"volume", "create", v}, {"volume", "rm", v}, {"volume", "prune", "-af"}, {"volume", "ls"},
		{"network", "create", n}, {"network", "create", n}, {"network", "create", n}, {"network", "rm", n}, {"network", "prune", "-f"}, {"network", "ls"},
		{"network", "connect", n, c}, {"network", "disconnect", n, c}, {"network", "disconnect", "-f", n, c},
		{"system", "df"}, {"system", "prune", "-f"}, {"system", "check"}, {"info"}, {"events", "--since", "1m", "--until", "0s"},
	}
	return lines[rnd.IntN(len(lines))]
}
