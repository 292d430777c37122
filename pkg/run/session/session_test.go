package session

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/lock"
	_ "cais.dev/cais/pkg/run/role" // this binary is the monitor, too
	"cais.dev/cais/pkg/run/wire"
)

// box is a container without namespaces: a directory and a job.
type box struct {
	t   *testing.T
	dir string
	job *wire.Job
}

// newBox returns a container that runs sh with script.
func newBox(t *testing.T, script string) *box {
	t.Helper()
	b := &box{t: t, dir: t.TempDir()}
	run := filepath.Join(b.dir, "rundir")
	if err := errors.Join(os.Mkdir(run, 0o700), os.Symlink(run, filepath.Join(b.dir, "run"))); err != nil {
		t.Fatal(err)
	}
	b.job = &wire.Job{
		ID: "c", Dir: b.dir, RunDir: run, Plan: shell(t, script),
		Log: wire.Log{Driver: "json-file", Path: filepath.Join(b.dir, "c-json.log")},
	}
	return b
}

// shell returns a plan that runs sh with script.
func shell(t *testing.T, script string) []byte {
	t.Helper()
	var b wire.Builder
	for fd, slot := range []int{wire.SlotStdin, wire.SlotStdout, wire.SlotStderr} {
		b.Call("stdio", syscall.SYS_DUP3, wire.InSlot(slot), fd, 0)
	}
	b.Call("gate", syscall.SYS_WRITE, wire.InSlot(wire.SlotSync), b.Bytes([]byte{wire.MsgGate}), 1)
	b.Call("gate", syscall.SYS_READ, wire.InSlot(wire.SlotSync), b.Bytes([]byte{0}), 1)
	b.Call("exec sh", syscall.SYS_EXECVE, "/bin/sh", b.Texts([]string{"sh", "-c", script}), b.Texts([]string{"PATH=/usr/bin:/bin"})).Final = true
	p, err := b.Plan()
	if err != nil {
		t.Fatal(err)
	}
	return p.Marshal()
}

var everything = wire.Attach{Stdin: true, Stdout: true, Stderr: true}

// start starts the container.
func (b *box) start(a wire.Attach) *Session {
	b.t.Helper()
	s, err := Spawn(b.t.Context(), SpawnOptions{RunDir: b.dir, Job: b.job, Attach: a})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = s.Close(); b.wait() })
	if err := s.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return s
}

// wait waits until no monitor lives.
func (b *box) wait() {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	l, err := lock.Acquire(ctx, filepath.Join(b.dir, "alive"), false)
	if err != nil {
		b.t.Fatalf("the monitor still lives: %v", err)
	}
	_ = l.Release()
}

func (b *box) text(name string) string {
	p, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		return ""
	}
	return string(p)
}

func TestRunForeground(t *testing.T) {
	b := newBox(t, "echo out; echo err >&2; exit 3")
	s := b.start(everything)
	var out, err bytes.Buffer
	x, e := s.Stream(t.Context(), Streams{Out: &out, Err: &err})
	if e != nil || x.Code != 3 || out.String() != "out\n" || err.String() != "err\n" {
		t.Errorf("exit %+v, %v; out %q err %q", x, e, &out, &err)
	}
	if held, err := lock.Held(filepath.Join(b.dir, "alive")); held || err != nil {
		t.Errorf("alive is held (%v) after the exit was announced", err)
	}
	if log := b.text("c-json.log"); !strings.Contains(log, `{"log":"out\n","stream":"stdout"`) || !strings.Contains(log, `{"log":"err\n","stream":"stderr"`) {
		t.Errorf("log %q", log)
	}
	if exit := b.text("exit.json"); !strings.Contains(exit, `"code":3`) {
		t.Errorf("exit.json %q", exit)
	}
	for _, gone := range []string{"run/state.json", "run/attach", "monitor.log"} {
		if _, err := os.Lstat(filepath.Join(b.dir, gone)); err == nil {
			t.Errorf("%s is left: %s", gone, b.text(gone))
		}
	}
	_ = container.Exit{}
	_ = io.Discard
	_ = errs.Internal
}
