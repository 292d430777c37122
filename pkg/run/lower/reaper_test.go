package lower

import (
	"bytes"
	"debug/elf"
	"io"
	"strings"
	"syscall"
	"testing"
)

func TestReaperImage(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		image, ok := reaperImage(arch)
		if !ok {
			t.Fatal(arch)
		}
		f, err := elf.NewFile(bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		if f.Machine != machine || f.Entry != f.Progs[0].Vaddr+176 || f.Progs[0].Filesz != uint64(len(image)) {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
	}
	if _, ok := reaperImage("mips"); ok {
		t.Error("an image for an unknown machine")
	}
}

func TestInit(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// An orphan is adopted and reaped; the exit code is the program's.
	c := sh(t, `echo me $$; readlink /proc/1/exe; tr '\0' ' ' < /proc/1/cmdline; echo; (sh -c 'sleep 0.01 & exec true' &); sleep 0.1; ps; exit 9`)
	c.o.Init = true
	out, code, err := c.run(t)
	if err != nil || code != 9 {
		t.Fatalf("code %d, %v: %s", code, err, out)
	}
	if !strings.Contains(out, "me 2\n") || !strings.Contains(out, "/memfd:cais-init (deleted)") || !strings.Contains(out, "cais-init -- sh -c") || strings.Contains(out, " Z ") {
		t.Errorf("got %q", out)
	}
	killed := sh(t, "kill -9 $$")
	killed.o.Init = true
	if _, code, err := killed.run(t); code != 128+9 || err != nil {
		t.Errorf("killed: code %d, %v", code, err)
	}
	missing := newContainer(t, "nope")
	missing.o.Init = true
	if _, _, err := missing.run(t); err == nil || !strings.Contains(err.Error(), "nope") {
		t.Errorf("got %v", err)
	}
}

func TestInitPassesSignalsOn(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	c := sh(t, "trap 'echo got it; exit 4' TERM; echo up; while true; do sleep 0.01; done")
	c.o.Init = true
	pr, r := c.up(t)
	defer pr.Close()
	if err := syscall.Kill(pr.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	if code := wait(t, pr.PID); code != 4 || string(out) != "got it\n" {
		t.Errorf("code %d, %q, %v", code, out, err)
	}
}

func TestInitOnATerminal(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	// Without noflsh a ^C also discards what is on its way to the master.
	c := sh(t, "stty noflsh; trap 'echo int; exit 3' INT; echo up; read x; sleep 5; echo late")
	c.o.Init, c.spec.Process.Terminal = true, true
	p, err := Run(c.spec, c.o)
	if err != nil {
		t.Fatal(err)
	}
	if out, code := terminal(t, p, noSlots(), "up", "\x03"); code != 3 || strings.Count(out, "int") != 1 {
		t.Errorf("code %d: %q", code, out)
	}
}
