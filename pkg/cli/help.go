package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/ui"
)

// The headings of the root's help, in order.
const (
	common     = "Common Commands"
	management = "Management Commands"
	others     = "Commands"
)

// help prints a command's help on its own output stream.
func help(cmd *cobra.Command, _ []string) { writeHelp(cmd.OutOrStdout(), cmd) }

// usage is what cobra calls when it thinks that usage is due; errors are
// reported by [ui.Reporting], so this is only for its own helpers.
func usage(cmd *cobra.Command) error {
	writeHelp(cmd.OutOrStderr(), cmd)
	return nil
}

// writeHelp is written in Go and not as a template: cobra's would cost the
// start of every program that has one.
func writeHelp(w io.Writer, cmd *cobra.Command) {
	fmt.Fprintf(w, "Usage:  %s\n\n%s\n", ui.UseLine(cmd), description(cmd))
	if paths := Spellings(cmd); len(paths) > 1 {
		fmt.Fprintf(w, "\nAliases:\n  %s\n", strings.Join(paths, ", "))
	}
	if cmd.Example != "" {
		fmt.Fprintf(w, "\nExamples:\n%s\n", strings.TrimRight(cmd.Example, "\n"))
	}
	writeCommands(w, cmd)
	title := "Options"
	if !cmd.HasParent() {
		title = "Global Options"
	}
	if flags := cmd.LocalFlags(); hasFlags(flags) {
		fmt.Fprintf(w, "\n%s:\n%s", title, flags.FlagUsages())
	}
	if cmd.HasAvailableSubCommands() {
		fmt.Fprintf(w, "\nRun '%s COMMAND --help' for more information on a command.\n", cmd.CommandPath())
	}
}

func description(cmd *cobra.Command) string {
	if cmd.Long != "" {
		return strings.TrimSpace(cmd.Long)
	}
	return cmd.Short
}

// hasFlags reports whether there is a flag beside --help.
func hasFlags(f *pflag.FlagSet) (has bool) {
	f.VisitAll(func(f *pflag.Flag) { has = has || !f.Hidden && f.Name != "help" })
	return has
}

// Spellings are all the ways to call a command: "cais container stop, cais stop".
func Spellings(cmd *cobra.Command) []string {
	if !cmd.HasParent() {
		return nil
	}
	root := cmd.Root().Name()
	want, _ := pathOf(tree, strings.Fields(cmd.CommandPath())[1:])
	var paths []string
	walk(tree, nil, func(path []string, n node) {
		if n.new == nil || !same(n, want) {
			return
		}
		for _, name := range append([]string{n.name}, n.aliases...) {
			paths = append(paths, strings.Join(slices.Concat([]string{root}, path[:len(path)-1], []string{name}), " "))
		}
	})
	slices.SortStableFunc(paths, func(a, b string) int { return strings.Count(b, " ") - strings.Count(a, " ") })
	return paths
}

// same reports whether two nodes are one command: they share its text.
func same(a, b node) bool { return a.of != "" && a.of == b.of }

func pathOf(nodes []node, path []string) (node, bool) {
	n, ok := find(nodes, path[0])
	if !ok || len(path) == 1 {
		return n, ok
	}
	return pathOf(n.children, path[1:])
}

func walk(nodes []node, path []string, f func(path []string, n node)) {
	for _, n := range nodes {
		p := append(slices.Clone(path), n.name)
		f(p, n)
		walk(n.children, p, f)
	}
}

func writeCommands(w io.Writer, cmd *cobra.Command) {
	width := 0
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			width = max(width, len(c.Name()))
		}
	}
	for _, section := range []string{common, management, others} {
		first := true
		for _, c := range cmd.Commands() {
			if !c.IsAvailableCommand() || sectionOf(c) != section {
				continue
			}
			if first {
				fmt.Fprintf(w, "\n%s:\n", section)
				first = false
			}
			fmt.Fprintf(w, "  %-*s  %s\n", width, c.Name(), c.Short)
		}
	}
}

func sectionOf(c *cobra.Command) string {
	if s := c.Annotations[sectionKey]; s != "" {
		return s
	}
	return others
}

// Where a command remembers its heading, and what it is about, which all
// Spellings of one command share.
const (
	sectionKey  = "section"
	SpellingKey = "spelling"
)
