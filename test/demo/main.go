// Demo shows the main job on real input: an image that it makes from what is on
// this machine, pushed to a registry that it starts on loopback, then pulled,
// run with a terminal and detached, listed, logged, entered, stopped and removed
// by the built program; then one built from it, in a network and with a volume. It works as root and as an ordinary user, needs no
// network, and leaves nothing behind.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"cais.dev/cais/test/pty"
	"cais.dev/cais/test/testimage"
)

func main() {
	bin := flag.String("cais", "bin/cais", "the program to show")
	flag.Parse()
	if err := run(*bin); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// step is one command of the program.
type step struct {
	note string
	args []string
	tty  bool
	keys []string // expect, send, expect, send, …
	want string   // in its output
	code int
}

// demo is one showing.
type demo struct {
	shell bool     // the image has one
	cais  string   // absolute path
	dir   string   // everything that the demo makes is below it
	env   []string // of the program
}

func run(bin string) (err error) {
	d := &demo{}
	if d.cais, err = filepath.Abs(bin); err != nil {
		return err
	}
	if d.dir, err = os.MkdirTemp("", "cais-demo"); err != nil {
		return err
	}
	d.env = append(os.Environ(), "CAIS_ROOT="+d.dir+"/c", "DOCKER_CONFIG="+d.dir+"/docker")
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		d.cleanUp()
		os.Exit(130)
	}()
	defer func() { err = errors.Join(err, d.cleanUp()) }()
	ref, closeRegistry, err := d.publish()
	if err != nil {
		return err
	}
	defer closeRegistry()
	return d.show(ref)
}

// publish makes an image and pushes it to a registry of this process.
func (d *demo) publish() (string, func(), error) {
	box, err := testimage.FindBox(d.dir)
	if err != nil {
		return "", nil, err
	}
	d.shell = box.HasShell()
	note("An image for two platforms, made from this machine's " + box.Name + ", in a registry on loopback.")
	idx, err := box.Multi()
	if err != nil {
		return "", nil, err
	}
	srv := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	text := strings.TrimPrefix(srv.URL, "http://") + "/demo:1"
	ref, err := name.ParseReference(text, name.Insecure)
	if err == nil {
		err = remote.WriteIndex(ref, idx)
	}
	if err != nil {
		srv.Close()
		return "", nil, err
	}
	return text, srv.Close, nil
}

// show gives the commands.
func (d *demo) show(ref string) error {
	steps := []step{
		{note: "Pull it, and look.", args: []string{"pull", ref}, want: "Status: Downloaded newer image"},
		{args: []string{"images"}, want: "demo"},
		{note: "A container in the foreground: its output and its exit code are ours.", args: []string{"run", "--rm", ref, "echo", "hello from a container"}, want: "hello from a container"},
		{args: []string{"run", "--rm", ref, "false"}, code: 1},
		{note: "With a terminal, and somebody typing.", args: []string{"run", "--rm", "-it", ref, "cat"}, tty: true, keys: []string{"", "typed at the terminal\r", "typed at the terminal\r\ntyped at the terminal", "\x04"}, want: "typed at the terminal"},
		{note: "Detached.", args: []string{"run", "-d", "--name", "web", ref, "sh", "-c", "echo started; sleep 1000"}},
		{args: []string{"ps"}, want: "web"},
		{args: []string{"logs", "web"}, want: "started"},
		{note: "Another process in the same container.", args: []string{"exec", "web", "cat", "/srv/arch"}},
		{args: []string{"exec", "-it", "web", "echo", "entered with a terminal"}, tty: true, want: "entered with a terminal"},
		{args: []string{"inspect", "-f", "{{.State.Status}} {{.Config.Image}}", "web"}, want: "running"},
		{note: "Stop, start, stop again, remove.", args: []string{"stop", "-t", "1", "web"}, want: "web"},
		{args: []string{"ps", "-a"}, want: "Exited"},
		{args: []string{"start", "web"}, want: "web"},
		{args: []string{"stop", "-t", "0", "web"}, want: "web"},
		{args: []string{"rm", "web"}, want: "web"},
	}
	if d.shell { // a machine without busybox has an image with little in it
		more, err := d.building(ref)
		if err != nil {
			return err
		}
		steps = append(steps, more...)
	} else {
		note("Without busybox on this machine building, networks and volumes are not shown (Debian: busybox-static).")
	}
	steps = append(steps, step{args: []string{"rmi", ref}, want: "Untagged"}, step{args: []string{"ps", "-aq"}})
	for _, s := range steps {
		if s.note != "" {
			note(s.note)
		}
		fmt.Println("$ cais", quote(s.args))
		cmd := exec.Command(d.cais, s.args...)
		cmd.Env = d.env
		var out string
		var code int
		var err error
		if s.tty {
			out, code, err = typing(cmd, s.keys)
		} else {
			out, code, err = d.plain(cmd, s.args[0] == "logs", s.want)
		}
		fmt.Print(strings.ReplaceAll(out, "\r\n", "\n"))
		if s.code != 0 {
			fmt.Printf("(exit code %d)\n", code)
		}
		switch {
		case err != nil:
			return fmt.Errorf("cais %s: %w", quote(s.args), err)
		case code != s.code:
			return fmt.Errorf("cais %s: exit code %d, want %d", quote(s.args), code, s.code)
		case !strings.Contains(out, s.want):
			return fmt.Errorf("cais %s: no %q in what it printed", quote(s.args), s.want)
		}
	}
	fmt.Println("\nThat was it; nothing is left.")
	return nil
}

// building gives the commands about an image of one's own, made from ref.
func (d *demo) building(ref string) ([]step, error) {
	dir := filepath.Join(d.dir, "app")
	app := strings.TrimSuffix(ref, ":1") + "/app"
	text := "FROM " + ref + `
RUN mkdir /pages && echo hello from an image of our own >/pages/index.html
CMD ["httpd", "-f", "-p", "8000", "-h", "/pages"]
`
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	fmt.Printf("\n# A Dockerfile:\n%s", text)
	return []step{
		{note: "Build it. The second time nothing is made again.", args: []string{"build", "--progress", "plain", "-t", app, dir}, want: "writing image"},
		{args: []string{"build", "--progress", "plain", "-t", app, dir}, want: "CACHED"},
		{args: []string{"push", app}, want: "digest: sha256:"},
		{note: "A network in which containers have names, a volume, and a published port.", args: []string{"network", "create", "front"}},
		{args: []string{"run", "-d", "--name", "app", "--network", "front", "-v", "pages:/pages", "-p", "127.0.0.1::8000", app}},
		{args: []string{"port", "app"}, want: "8000/tcp -> 127.0.0.1:"},
		{args: []string{"run", "--rm", "--network", "front", ref, "sh", "-c", "until wget -q -O - http://app:8000; do sleep 0.1; done"}, want: "hello from an image of our own"},
		{args: []string{"volume", "ls"}, want: "pages"},
		{args: []string{"system", "df"}, want: "Build Cache"},
		{args: []string{"rm", "-f", "app"}, want: "app"},
	}, nil
}

// plain runs cmd. With again, until its output has want: a detached container
// writes its log when it gets there.
func (d *demo) plain(cmd *exec.Cmd, again bool, want string) (string, int, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c := *cmd
		out, err := c.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			return string(out), 0, err
		}
		if !again || strings.Contains(string(out), want) || time.Now().After(deadline) {
			return string(out), c.ProcessState.ExitCode(), nil
		}
	}
}

// typing runs cmd on a terminal of its own.
func typing(cmd *exec.Cmd, keys []string) (string, int, error) {
	const patience = 20 * time.Second
	s, err := pty.Start(cmd, 24, 80)
	if err != nil {
		return "", 0, err
	}
	var failed error
	for i, k := range keys {
		if i%2 == 0 {
			failed = s.Expect(k, patience)
		} else {
			failed = s.Send(k)
		}
		if failed != nil {
			s.Signal(syscall.SIGKILL)
			break
		}
	}
	code, out, err := s.Wait(patience)
	return out, code, errors.Join(failed, err)
}

// cleanUp removes what the demo made, with the program's own help: a user's
// store holds files of ids that only his user namespace may remove.
func (d *demo) cleanUp() error {
	call := func(args ...string) {
		cmd := exec.Command(d.cais, args...)
		cmd.Env = d.env
		_ = cmd.Run() // what is left is seen below
	}
	call("system", "reset", "-f")
	err := os.RemoveAll(d.dir)
	if err != nil {
		call("unshare", "rm", "-rf", d.dir)
		err = os.RemoveAll(d.dir)
	}
	return err
}

func note(text string) { fmt.Printf("\n# %s\n", text) }

func quote(args []string) string {
	q := make([]string, len(args))
	for i, a := range args {
		if q[i] = a; strings.ContainsAny(a, " ;{}") {
			q[i] = "'" + a + "'"
		}
	}
	return strings.Join(q, " ")
}
