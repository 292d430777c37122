package ui

import (
	"bufio"
	"fmt"
	"strings"
)

// Confirm asks whether to go on, after a warning. Only y or Y is a yes; the end of
// the input is a no.
func Confirm(s Streams, warning string) (bool, error) {
	if _, err := fmt.Fprintf(s.Out, "%s\nAre you sure you want to continue? [y/N] ", warning); err != nil {
		return false, err
	}
	if s.In == nil {
		return false, nil
	}
	line, _ := bufio.NewReader(s.In).ReadString('\n') // an error is the end: a no
	return strings.EqualFold(strings.TrimSpace(line), "y"), nil
}
