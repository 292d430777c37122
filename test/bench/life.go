package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"
)

// life is what a container costs after its first start: commands about it, its
// files, its log, and many of its kind.
func (b *bench) life() error {
	w, err := b.self()
	if err != nil {
		return err
	}
	ours := b.ours(w)
	for _, part := range []func(*peer) error{b.starts, b.stops, b.copies, b.logs, b.rate, b.many} {
		if ours.err == nil {
			ours.err = part(ours)
		}
	}
	return ours.err
}

// starts compares a start of a container that exists with a run.
func (b *bench) starts(ours *peer) error {
	ours.must("create", "--name", "again", "--network", "none", "busybox", "true")
	defer runQuiet(ours.cmd("rm", "-f", "again"))
	start := ours.contender("start", "-a", "again")
	start.name = "start"
	c := []contender{ours.contender(runTrue...), start}
	s := interleave(b.rounds, c)
	b.absent("start -a", c)
	b.ratio("`start -a`", s["start"], s["cais"], false, 1.1, false, "`run --rm`")
	return ours.err
}

// stops takes the whole command, whose process ends at once when it is asked to.
func (b *bench) stops(ours *peer) error {
	var walls []time.Duration
	ours.must("run", "-d", "--name", "willing", "--init", "--network", "none", "busybox", "sleep", "10000")
	defer runQuiet(ours.cmd("rm", "-f", "willing"))
	for range b.rounds / 2 {
		begin := time.Now()
		ours.must("stop", "willing")
		walls = append(walls, time.Since(begin))
		ours.must("start", "willing")
	}
	if ours.err != nil {
		return ours.err
	}
	b.limit("`stop`", median(walls), 30*time.Millisecond, "a process that ends at once; the whole command")
	return nil
}

// limit adds a figure in milliseconds.
func (b *bench) limit(what string, d, target time.Duration, detail string) {
	b.rows = append(b.rows, row{what: what, value: ms(d), target: "≤ " + ms(target), verdict: verdict(d <= target), detail: detail})
}

// copies compares cp with a pair of tars that go through the same mounts.
func (b *bench) copies(ours *peer) error {
	if os.Geteuid() != 0 {
		b.missing = append(b.missing, "cp: a user's tar cannot reach into a container's mounts")
		return nil
	}
	ours.must("run", "-d", "--name", "files", "--network", "none", "busybox", "sleep", "10000")
	defer runQuiet(ours.cmd("rm", "-f", "files"))
	pid, err := ours.cmd("inspect", "-f", "{{.State.Pid}}", "files").Output()
	if err != nil {
		return errors.Join(err, ours.err)
	}
	root := filepath.Join("/proc", strings.TrimSpace(string(pid)), "root")
	big, small, out := filepath.Join(b.dir, "big"), filepath.Join(b.dir, "small"), filepath.Join(b.dir, "out")
	defer func() { os.RemoveAll(big); os.RemoveAll(small); os.RemoveAll(out) }()
	if err := errors.Join(bigFile(big), smallFiles(small)); err != nil {
		return err
	}
	for _, t := range []struct {
		what, from string
		rounds     int
	}{{"1 GB", big, 3}, {"20,000 small files", small, 5}} {
		in, inTar := filepath.Join(root, "in"), filepath.Join(root, "tar")
		c := []contender{
			fresh("cp in", in, ours.cmd("cp", t.from+"/.", "files:/in")),
			fresh("tar in", inTar, tars(t.from, inTar)),
			fresh("cp out", out, ours.cmd("cp", "files:/in/.", out)),
			fresh("tar out", out, tars(in, out)),
		}
		s := interleave(t.rounds, c)
		b.absent("cp", c)
		b.ratio("`cp` of "+t.what+", in", s["cp in"], s["tar in"], false, 1.3, false, "`tar \\| tar`")
		b.ratio("`cp` of "+t.what+", out", s["cp out"], s["tar out"], false, 1.3, false, "`tar \\| tar`")
		os.RemoveAll(in)
		os.RemoveAll(inTar)
	}
	return nil
}

// fresh is a contender that always finds the directory to empty.
func fresh(name, to string, cmd *exec.Cmd) contender {
	return contender{name: name, cmd: func() *exec.Cmd {
		os.RemoveAll(to)
		os.MkdirAll(to, 0o755)
		again := exec.Command(cmd.Path, cmd.Args[1:]...)
		again.Env, again.Dir = cmd.Env, cmd.Dir
		return again
	}}
}

func tars(from, to string) *exec.Cmd {
	return exec.Command("sh", "-c", `tar -C "$0" -cf - . | tar -C "$1" -xf -`, from, to)
}

func bigFile(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Create(filepath.Join(dir, "big"))
	if err != nil {
		return err
	}
	for piece := bytes.Repeat([]byte("0123456789abcdef"), 1<<16); err == nil; {
		if at, _ := f.Seek(0, io.SeekCurrent); at >= 1<<30 {
			break
		}
		_, err = f.Write(piece)
	}
	return errors.Join(err, f.Close())
}

func smallFiles(dir string) error {
	for i := range 20000 {
		d := filepath.Join(dir, fmt.Sprint(i/100))
		if i%100 == 0 {
			if err := os.MkdirAll(d, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(d, fmt.Sprint(i)), make([]byte, 1000), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// logs compares printing a log of 1 GB with the least that printing it takes:
// reading it, decoding each entry's fields, and writing the text.
func (b *bench) logs(ours *peer) error {
	ours.must("create", "--name", "talkative", "busybox", "true")
	defer runQuiet(ours.cmd("rm", "-f", "talkative"))
	path, err := ours.cmd("inspect", "-f", "{{.LogPath}}", "talkative").Output()
	if err != nil {
		return errors.Join(err, ours.err)
	}
	log := strings.TrimSpace(string(path))
	if err := bigLog(log); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	quiet := func(name string, cmd *exec.Cmd) contender {
		return contender{name: name, cmd: func() *exec.Cmd {
			c := exec.Command("sh", append([]string{"-c", `exec "$0" "$@" >/dev/null`}, cmd.Args...)...)
			c.Env, c.Dir, c.SysProcAttr = cmd.Env, cmd.Dir, cmd.SysProcAttr
			return c
		}}
	}
	c := []contender{quiet("cais", ours.cmd("logs", "talkative")), quiet("floor", exec.Command(self, "logfloor", log))}
	s := interleave(3, c)
	b.absent("logs", c)
	b.ratio("`logs` of 1 GB", s["cais"], s["floor"], false, 1.25, false, "reading; text, stream and time of each entry; writing")
	return nil
}

// bigLog fills the log of a container that has not run.
func bigLog(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	at := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	for n := 0; n < 1<<30 && err == nil; {
		at = at.Add(123456 * time.Nanosecond)
		var k int
		k, err = fmt.Fprintf(w, `{"log":"GET /some/path/%d HTTP/1.1 200 \"a browser of some kind\" and more text\n","stream":"stdout","time":"%s"}`+"\n",
			n, at.Format("2006-01-02T15:04:05.000000000Z07:00"))
		n += k
	}
	return errors.Join(err, w.Flush(), f.Close())
}

// logFloor prints a log that has the escapes of [bigLog] and no others.
func logFloor(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r, out := bufio.NewReaderSize(f, 256<<10), make([]byte, 0, 128<<10)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return errors.Join(ignoreEOF(err), flushTo(os.Stdout, &out))
		}
		text, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
		start := len(out)
		for ok {
			quote := bytes.IndexByte(text, '"')
			escape := bytes.IndexByte(text[:max(quote, 0)], '\\')
			if escape < 0 {
				out, text = append(out, text[:quote]...), text[quote+1:]
				break
			}
			out = append(out, text[:escape]...)
			c := text[escape+1]
			if ok = c == 'n' || c == '"'; c == 'n' {
				c = '\n'
			}
			out, text = append(out, c), text[escape+2:]
		}
		text, found := bytes.CutPrefix(text, []byte(`,"stream":"stdout","time":"`))
		if !ok || !found || !utf8.Valid(out[start:]) || !isTime(text) {
			return fmt.Errorf("not a line of ours: %q", line)
		}
		if len(out) > 64<<10 {
			if err := flushTo(os.Stdout, &out); err != nil {
				return err
			}
		}
	}
}

// isTime is the least that reads a time of bigLog's.
func isTime(text []byte) bool {
	var fields [7]int
	i := 0
	for _, c := range text[:min(len(text), len("2006-01-02T15:04:05.000000000"))] {
		if c >= '0' && c <= '9' {
			fields[i] = fields[i]*10 + int(c-'0')
		} else {
			i++
		}
	}
	return i == 6 && fields[1] <= 12 && fields[2] <= 31 && fields[3] < 24 && fields[4] < 60 && fields[5] < 60
}

func flushTo(w io.Writer, buf *[]byte) error {
	_, err := w.Write(*buf)
	*buf = (*buf)[:0]
	return err
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// rate counts the containers that two loops start, and see the end of, in ten
// seconds.
func (b *bench) rate(ours *peer) error {
	const span = 10 * time.Second
	var n atomic.Int64
	begin := time.Now()
	err := together(2, func(int) error {
		for time.Since(begin) < span {
			if out, err := runQuiet(ours.cmd(runTrue...)); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			n.Add(1)
		}
		return nil
	})
	if err != nil {
		return err
	}
	each := float64(n.Load()) / time.Since(begin).Seconds()
	b.rows = append(b.rows, row{what: "starts a second", value: fmt.Sprintf("%.0f", each), target: "≥ 50", verdict: verdict(each >= 50), detail: "`run --rm`, two at a time, 10 s"})
	return nil
}

// together runs f n times at once.
func together(n int, f func(i int) error) error {
	failed := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { failed[i] = f(i) })
	}
	wg.Wait()
	return errors.Join(failed...)
}

// many compares commands with 300 containers running with the same beside one,
// and measures stats with 100.
func (b *bench) many(ours *peer) error {
	const all = 300
	var names []string
	for i := range all {
		names = append(names, fmt.Sprintf("many%d", i))
	}
	defer runQuiet(ours.cmd(append([]string{"rm", "-f"}, names...)...))
	up := func(from, to int) error {
		return together(2, func(half int) error {
			for i := from + half; i < to; i += 2 {
				if out, err := runQuiet(ours.cmd("run", "-d", "--name", names[i], "--network", "none", "busybox", "sleep", "10000")); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
			}
			return nil
		})
	}
	commands := [][]string{
		{"ps"}, {"inspect", "many0"}, {"logs", "many0"}, {"top", "many0"}, {"exec", "many0", "true"},
		{"update", "--restart", "no", "many0"}, {"restart", "-t", "0", "many0"}, runTrue,
	}
	measure := func() map[string]sample {
		var c []contender
		for _, args := range commands {
			one := ours.contender(args...)
			one.name = args[0]
			c = append(c, one)
		}
		s := interleave(b.rounds/4, c)
		b.absent("many", c)
		return s
	}
	if err := up(0, 1); err != nil {
		return err
	}
	few := measure()
	if err := up(1, 100); err != nil {
		return err
	}
	c := []contender{ours.contender("stats", "--no-stream")}
	b.limit("`stats --no-stream`, 100 containers", interleave(b.rounds/8, c)["cais"].cpu, 50*time.Millisecond, "processor time of the command")
	b.absent("stats", c)
	if err := up(100, all); err != nil {
		return err
	}
	for name, s := range measure() {
		b.ratio("`"+name+"`, 300 containers", s, few[name], false, 2, false, "the same beside one container")
	}
	pss, _, err := b.monitors(ours, names)
	if err != nil {
		return err
	}
	b.rows = append(b.rows, row{what: "monitor, memory, 300 containers", value: fmt.Sprintf("%.2f MB PSS", pss), target: "≤ 2.5 MB", verdict: verdict(pss <= 2.5), detail: "mean of 300"})
	return nil
}
