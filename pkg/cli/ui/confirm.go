package ui

import (
	"bufio"
	"context"
	"fmt"
	"strings"
)

// Confirm asks whether to go on, after a warning. Only y or Y is a yes; the end of
// the input is a no, and so is a signal: as with Docker, the command then ends well.
func Confirm(ctx context.Context, s Streams, warning string) (bool, error) {
	if _, err := fmt.Fprintf(s.Out, "%s\nAre you sure you want to continue? [y/N] ", warning); err != nil {
		return false, err
	}
	if s.In == nil {
		return false, nil
	}
	line, _ := Answer(ctx, s, bufio.NewReader(s.In)) // an error is the end: a no
	return strings.EqualFold(strings.TrimSpace(line), "y"), nil
}

// Answer is the line that somebody types after a question. A signal ends the
// wait, and whoever typed Ctrl-C finds the shell's prompt on a line of its own.
func Answer(ctx context.Context, s Streams, in *bufio.Reader) (string, error) {
	type answer struct {
		line string
		err  error
	}
	got := make(chan answer, 1)
	go func() { // nothing interrupts a read: it ends with the program
		line, err := in.ReadString('\n')
		got <- answer{strings.TrimRight(line, "\r\n"), err}
	}()
	select {
	case a := <-got:
		if a.line != "" {
			a.err = nil
		}
		return a.line, a.err
	case <-ctx.Done():
		fmt.Fprintln(s.Out)
		return "", context.Cause(ctx)
	}
}
