package procs

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestTitles(t *testing.T) {
	for options, want := range map[string]string{
		"":                   "UID PID PPID C STIME TTY TIME CMD",
		"-ef":                "UID PID PPID C STIME TTY TIME CMD",
		"aux":                "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-aux":               "USER PID %CPU %MEM VSZ RSS TTY STAT START TIME COMMAND",
		"-o pid,comm":        "PID COMMAND",
		"-eo pid -o args":    "PID COMMAND",
		"-o pid,user=WHO":    "PID WHO",
		"axo pid,ppid":       "PID PPID",
		"ax":                 "PID TTY STAT TIME COMMAND",
		"-e":                 "PID TTY TIME CMD",
		"-el":                "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD",
		"pid hpid user comm": "PID HPID USER COMMAND",
		"-opid,comm":         "PID COMMAND",
	} {
		got, err := Show(nil, strings.Fields(options), time.Now())
		if err != nil {
			t.Errorf("%s: %v", options, err)
			continue
		}
		if strings.Join(got.Titles, " ") != want {
			t.Errorf("%s: %v", options, got.Titles)
		}
	}
	for _, bad := range []string{"-o comm", "-o nonsense,pid", "-o", "--forest", "-q", "bogus"} {
		if _, err := Show(nil, strings.Fields(bad), time.Now()); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip("there is no sleep here")
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	pid := cmd.Process.Pid
	got, err := Show([]int{pid, 1 << 30}, strings.Fields("-o pid,ppid,user,comm,args,stat,etime,time,rss"), time.Now())
	if err != nil || len(got.Rows) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	row := got.Rows[0]
	if row[0] != strconv.Itoa(pid) || row[1] != strconv.Itoa(os.Getpid()) || row[3] != "sleep" && row[3] != cmd.Path {
		t.Errorf("%v", row)
	}
	if !slices.Contains([]string{"S", "R", "D"}, row[5][:1]) || row[7] != "00:00:00" {
		t.Errorf("%v", row)
	}
}

// A process chooses its name and its arguments, and who looks has a terminal.
func TestWhatATerminalWouldObey(t *testing.T) {
	cmd := &exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "printf '\\033[31m' >/proc/self/comm; echo; read x", "\x1b]0;title\a\x9b31m", "two\nlines", "ä"}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skip("there is no sh here")
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	got, err := Show([]int{cmd.Process.Pid}, strings.Fields("-o pid,comm,args"), time.Now())
	if err != nil || len(got.Rows) != 1 {
		t.Fatalf("%v %v", got, err)
	}
	if row := got.Rows[0]; row[1] != "?[31m" || !strings.HasSuffix(row[2], " ?]0;title??31m two?lines ä") {
		t.Errorf("%q", row)
	}
}
