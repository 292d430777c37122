package ui

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
)

func TestReport(t *testing.T) {
	missing := errs.New(errs.NotFound, "no such container: x")
	taken := errs.New(errs.Conflict, `the container name "web" is already in use by container "abc"; remove or rename it, or use --replace`)
	tests := []struct {
		name                string
		err                 error
		code                int
		house, asDockerDoes string
	}{
		{"none", nil, 0, "", ""},
		{"plain", errors.New("it broke"), 1, "Error: it broke\n", "Error: it broke\n"},
		{"missing", missing, 1, "Error: no such container: x\n", "Error response from daemon: No such container: x\n"},
		{"image", errs.New(errs.NotFound, "no such image: x:latest"), 1, "Error: no such image: x:latest\n", "Error response from daemon: No such image: x:latest\n"},
		{"object", errs.New(errs.NotFound, "no such object: x"), 1, "Error: no such object: x\n", "Error: No such object: x\n"},
		{"not running", errs.New(errs.Conflict, "container x is not running"), 1, "Error: container x is not running\n", "Error response from daemon: Container x is not running\n"},
		{"taken", taken, 1, "Error: " + taken.Error() + "\n",
			"Error response from daemon: Conflict. The container name \"/web\" is already in use by container \"abc\". You have to remove (or rename) that container to be able to reuse that name.\n"},
		{"several", errors.Join(missing, errors.Join(errors.New("b"), errors.New("c"))), 1, "Error: no such container: x\nError: b\nError: c\n",
			"Error response from daemon: No such container: x\nError: b\nError: c\n"},
		{"hint", errs.WithHint(errors.New("a"), "Do b."), 1, "Error: a\nHint: Do b.\n", "Error: a\nHint: Do b.\n"},
		{"full disk", fmt.Errorf("write x: %w", syscall.ENOSPC), 1, "Error: write x: no space left on device\nHint: Make room there: 'cais system df' shows what cais holds; 'cais rm', which needs no room, removes containers.\n",
			"Error: write x: no space left on device\nHint: Make room there: 'cais system df' shows what cais holds; 'cais rm', which needs no room, removes containers.\n"},
		{"few files", fmt.Errorf("open x: %w", syscall.EMFILE), 1, "Error: open x: too many open files\nHint: The limit of open files is too low: raise it with ulimit -n.\n",
			"Error: open x: too many open files\nHint: The limit of open files is too low: raise it with ulimit -n.\n"},
		{"an image's words", errs.WithHint(errors.New("unable to find user a\x1b[2J\u009bb\tä"), "\aring\x7f"), 1,
			"Error: unable to find user a\\x1b[2J\\x9bb\tä\nHint: \\x07ring\\x7f\n", "Error: unable to find user a\\x1b[2J\\x9bb\tä\nHint: \\x07ring\\x7f\n"},
		{"the container's code", &ExitError{Code: 42}, 42, "", ""},
		{"a code and a text", Exit(125, missing), 125, "Error: no such container: x\n", "Error response from daemon: No such container: x\n"},
		{"no such command", Exit(127, errs.New(errs.NotFound, `exec "x": executable file not found in $PATH`)), 127, "Error: exec \"x\": executable file not found in $PATH\n",
			"Error response from daemon: failed to create task for container: failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown\n"},
		{"no such command of exec", Exit(127, &ExecError{errs.New(errs.NotFound, `exec "x": executable file not found in $PATH`)}), 127, "Error: exec \"x\": executable file not found in $PATH\n",
			"OCI runtime exec failed: exec failed: unable to start container process: exec: \"x\": executable file not found in $PATH: unknown\n"},
		{"usage", &UsageError{Command: "cais stop", Usage: "cais stop CONTAINER", Code: 1, Err: errors.New("'cais stop' requires at least 1 argument")}, 1,
			"Error: 'cais stop' requires at least 1 argument\n\nUsage:  cais stop CONTAINER\n\nRun 'cais stop --help' for more information\n",
			"docker: 'cais stop' requires at least 1 argument\n\nUsage:  cais stop CONTAINER\n\nRun 'cais stop --help' for more information\n"},
		{"two causes of one sentence", fmt.Errorf("a: %w, %w", errors.New("b"), errors.New("c")), 1, "Error: a: b, c\n", "Error: a: b, c\n"},
		{"another tool's words", fmt.Errorf("x: %w", lined{}), 1, "ERROR: y\n", "ERROR: y\n"},
		{"interrupted", fmt.Errorf("pull: %w", context.Canceled), 130, "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for docker, want := range map[bool]string{false: tt.house, true: tt.asDockerDoes} {
				var b bytes.Buffer
				code := Reporting{Failure: 1, Docker: docker}.Report(t.Context(), &b, tt.err)
				if code != tt.code || b.String() != want {
					t.Errorf("docker %t: %d, %q; want %d, %q", docker, code, b.String(), tt.code, want)
				}
			}
		})
	}
}

func TestReportNamesTheSignal(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(&SignalError{syscall.SIGTERM})
	if code := (Reporting{}).Report(ctx, &bytes.Buffer{}, ctx.Err()); code != 143 {
		t.Errorf("code %d, want 143", code)
	}
}

func TestSignals(t *testing.T) {
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	ctx, stop := WithSignals(t.Context())
	defer stop()
	own := make(chan os.Signal, 1)
	OwnSignals(ctx, own)
	hangUp()
	if sig := <-own; sig != syscall.SIGHUP || ctx.Err() != nil {
		t.Errorf("the owner got %v; %v", sig, ctx.Err())
	}
	OwnSignals(ctx, nil)
	hangUp()
	<-ctx.Done()
	if sig, ok := errors.AsType[*SignalError](context.Cause(ctx)); !ok || sig.Signal != syscall.SIGHUP {
		t.Errorf("cause %v, want hangup", context.Cause(ctx))
	}
	s, now := &signals{cancel: func(error) {}}, time.Now()
	s.take(syscall.SIGHUP, now)
	s.take(syscall.SIGHUP, now.Add(twice)) // the same once more; a later one would end this process
}

type lined struct{}

func (lined) Error() string { return "y" }
func (lined) Line() string  { return "ERROR: y" }

func TestMeant(t *testing.T) {
	known := []string{"run", "rm", "restart", "rename", "ps", "image", "images"}
	for name, want := range map[string]string{
		"rnu": "Did you mean run?", "restrat": "Did you mean restart?", "iamges": "Did you mean images?",
		"xyz": "", "bogus": "", "reset": "", "x": "",
	} {
		if got := errs.HintOf(meant(errors.New("unknown"), name, known, "")); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
