// Package ui is what the commands share when they speak to a person or to a
// script: streams, the error report with its exit codes, tables and --format.
package ui

import (
	"io"
	"os"

	"cais.dev/cais/pkg/sys"
)

// Streams are a command's standard streams. What scripts read goes to Out,
// everything else to Err.
type Streams struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
}

// file returns the descriptor behind a stream; nil if there is none, as in
// tests.
func file(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}

// InFile is the file behind In, nil if there is none.
func (s Streams) InFile() *os.File { return file(s.In) }

// OutFile is the file behind Out, nil if there is none.
func (s Streams) OutFile() *os.File { return file(s.Out) }

// ErrFile is the file behind Err, nil if there is none.
func (s Streams) ErrFile() *os.File { return file(s.Err) }

func isTerminal(f *os.File) bool { return f != nil && sys.IsTerminal(int(f.Fd())) }

// InTerminal reports whether In is a terminal.
func (s Streams) InTerminal() bool { return isTerminal(s.InFile()) }

// OutTerminal reports whether Out is a terminal.
func (s Streams) OutTerminal() bool { return isTerminal(s.OutFile()) }

// ErrTerminal reports whether Err is a terminal.
func (s Streams) ErrTerminal() bool { return isTerminal(s.ErrFile()) }
