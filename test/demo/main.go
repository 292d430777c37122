// Demo shows the main job on real input: an image that it makes from what is on
// this machine, pushed to a registry that it starts on loopback, then pulled,
// run with a terminal and detached, listed, logged, entered, stopped and removed
// by the built program. It works as root and as an ordinary user, needs no
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

// demo is one showing.
type demo struct {
	cais string   // absolute path
	dir  string   // everything that the demo makes is below it
	env  []string // of the program
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

// show gives the commands. A step's want is what its output must contain.
func (d *demo) show(ref string) error {
	steps := []struct {
		note string
		args []string
		tty  bool
		keys []string // expect, send, expect, send, …
		want string
		code int
	}{
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
		{args: []string{"rmi", ref}, want: "Untagged"},
		{args: []string{"ps", "-aq"}},
	}
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
	call := func(args ...string) string {
		cmd := exec.Command(d.cais, args...)
		cmd.Env = d.env
		out, err := cmd.Output()
		if err != nil {
			return ""
		}
		return string(out)
	}
	if ids := strings.Fields(call("ps", "-aq")); len(ids) > 0 {
		call(append([]string{"rm", "-f"}, ids...)...)
	}
	if ids := strings.Fields(call("images", "-q")); len(ids) > 0 {
		call(append([]string{"rmi", "-f"}, ids...)...)
	}
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
