package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"cais.dev/cais/test/pty"
)

// patience is how long a script waits for what should come at once.
const patience = 20 * time.Second

// ttyrun [-size RxC] FILE PROGRAM [ARG...] runs a program on a terminal of its
// own. FILE holds, line by line, what happens at the keyboard and on the screen:
//
//	expect TEXT    wait until TEXT has come
//	send TEXT      type it; Go's escapes, as \r for the return key
//	resize R C     change the terminal's size
//	signal N       signal the program
//
// It prints what was on the screen and exits with the program's code.
func ttyrun() {
	args := os.Args[1:]
	rows, cols := 24, 80
	if len(args) > 1 && args[0] == "-size" {
		fmt.Sscanf(args[1], "%dx%d", &rows, &cols)
		args = args[2:]
	}
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: ttyrun [-size RxC] FILE PROGRAM [ARG...]")
		os.Exit(2)
	}
	code, out, err := playKeyboard(args[0], rows, cols, exec.Command(args[1], args[2:]...))
	os.Stdout.WriteString(out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "ttyrun:", err)
		code = 99
	}
	os.Exit(code)
}

func playKeyboard(path string, rows, cols int, cmd *exec.Cmd) (int, string, error) {
	script, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer script.Close()
	s, err := pty.Start(cmd, rows, cols)
	if err != nil {
		return 0, "", err
	}
	var failed error
	for sc := bufio.NewScanner(script); failed == nil && sc.Scan(); {
		if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
			if err := keyboard(s, line); err != nil {
				failed = fmt.Errorf("%s: %w", line, err)
				s.Signal(syscall.SIGKILL)
			}
		}
	}
	code, out, err := s.Wait(patience)
	return code, out, errors.Join(failed, err)
}

func keyboard(s *pty.Session, line string) error {
	verb, rest, _ := strings.Cut(line, " ")
	text, err := strconv.Unquote(`"` + strings.ReplaceAll(rest, `"`, `\"`) + `"`)
	if err != nil {
		text = rest
	}
	switch verb {
	case "expect":
		return s.Expect(text, patience)
	case "send":
		return s.Send(text)
	case "resize":
		var r, c int
		if _, err := fmt.Sscanf(rest, "%d %d", &r, &c); err != nil {
			return err
		}
		return s.Resize(r, c)
	case "signal":
		n, err := strconv.Atoi(rest)
		if err != nil {
			return err
		}
		return s.Signal(syscall.Signal(n))
	}
	return errors.New("unknown verb")
}

// waitfor TEXT PROGRAM [ARG...] runs the program again and again until it prints
// TEXT: for what another process does in its own time and shows nowhere else.
func waitfor() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: waitfor TEXT PROGRAM [ARG...]")
		os.Exit(2)
	}
	var out []byte
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		out, _ = exec.Command(os.Args[2], os.Args[3:]...).CombinedOutput()
		if strings.Contains(string(out), os.Args[1]) {
			return
		}
	}
	fmt.Fprintf(os.Stderr, "waitfor: %v without %q; last: %s\n", patience, os.Args[1], out)
	os.Exit(1)
}

// nameserver answers every question with 192.0.2.77: for a container to run it.
func nameserver() {
	c, err := net.ListenPacket("udp", ":53")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil || n < 12 {
			continue
		}
		answer := append([]byte{buf[0], buf[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, buf[12:n]...)
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 192, 0, 2, 77)
		_, _ = c.WriteTo(answer, from) // who asked asks again
	}
}
