// Package gen makes the manual pages in docs/man from the commands, so that
// they cannot say something else. It is only a test: it fails when a page is
// missing, stale or left over, and writes them when run with -update.
package gen

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/test/golden"
)

// date is fixed, so that the pages are the same wherever they are made.
const date = "2026-11-21"

func TestPages(t *testing.T) {
	pages := map[string]string{}
	first := map[string]string{} // spelling → the page that has the text
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		name := pageName(cmd)
		of := cmd.Annotations[cli.SpellingKey]
		if main, ok := first[of]; ok && of != "" {
			pages[name] = ".so man1/" + main + "\n"
		} else {
			first[of] = name
			pages[name] = page(cmd)
		}
		subs := available(cmd)
		// The short spellings first: the groups then refer to them.
		slices.SortStableFunc(subs, func(a, b *cobra.Command) int { return len(a.Commands()) - len(b.Commands()) })
		for _, c := range subs {
			visit(c)
		}
	}
	root := cli.NewRoot("cais", engine.New(engine.Options{}), ui.Streams{})
	visit(root)

	for name, text := range pages {
		t.Run(name, func(t *testing.T) { golden.Text(t, filepath.Join("..", name), text) })
	}
	old, err := filepath.Glob("../*.1")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range old {
		if _, ok := pages[filepath.Base(path)]; ok {
			continue
		}
		if !golden.Updating() {
			t.Errorf("%s is left over from a command that is gone (-update removes it)", path)
		} else if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func pageName(cmd *cobra.Command) string {
	return strings.ReplaceAll(cmd.CommandPath(), " ", "-") + ".1"
}

// page is a command's manual page.
func page(cmd *cobra.Command) string {
	var b strings.Builder
	p := func(lines ...string) {
		for _, l := range lines {
			b.WriteString(l)
			b.WriteByte('\n')
		}
	}
	name := strings.TrimSuffix(pageName(cmd), ".1")
	p(`.\" Made from the commands: see docs/man/gen. Do not edit.`)
	p(`.TH "`+strings.ToUpper(escape(name))+`" "1" "`+date+`" "cais" "User Commands"`, ".nh", ".SH NAME", escape(name)+` \- `+escape(cmd.Short))
	p(".SH SYNOPSIS")
	for i, line := range strings.Split(ui.UseLine(cmd), "\n\t") {
		if i > 0 {
			p(".br")
		}
		p(`\fB` + escape(cmd.CommandPath()) + `\fP` + escape(strings.TrimPrefix(line, cmd.CommandPath())))
	}
	p(".SH DESCRIPTION")
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	for _, l := range strings.Split(strings.TrimSpace(long), "\n") {
		if l == "" {
			p(".PP")
			continue
		}
		p(escape(l))
	}
	if spellings := cli.Spellings(cmd); len(spellings) > 1 {
		p(".PP", "All of these are the same: "+escape(strings.Join(spellings, ", "))+".")
	}
	if cmd.LocalFlags().HasAvailableFlags() {
		p(".SH OPTIONS")
		cmd.LocalFlags().VisitAll(func(f *pflag.Flag) { option(p, f) })
	}
	if cmd.Example != "" {
		p(".SH EXAMPLES", ".nf", escape(cmd.Example), ".fi")
	}
	if subs := available(cmd); len(subs) > 0 {
		p(".SH COMMANDS")
		for _, c := range subs {
			p(".TP", `\fB`+escape(strings.TrimSuffix(pageName(c), ".1"))+`\fP(1)`, escape(c.Short))
		}
	}
	if cmd.HasParent() {
		p(".SH SEE ALSO", `\fB`+escape(strings.TrimSuffix(pageName(cmd.Parent()), ".1"))+`\fP(1)`)
	}
	return b.String()
}

func option(p func(...string), f *pflag.Flag) {
	if f.Hidden {
		return
	}
	value, usage := pflag.UnquoteUsage(f)
	flag := `\fB\-\-` + escape(f.Name) + `\fP`
	if f.Shorthand != "" && f.ShorthandDeprecated == "" {
		flag = `\fB\-` + f.Shorthand + `\fP, ` + flag
	}
	if value != "" {
		flag += ` \fI` + escape(value) + `\fP`
	}
	p(".TP", flag, escape(usage))
	if d := f.DefValue; value != "" && d != "" && d != "[]" && d != "0" && d != "map[]" {
		p("The default is " + escape(d) + ".")
	}
}

func available(cmd *cobra.Command) []*cobra.Command {
	return slices.DeleteFunc(slices.Clone(cmd.Commands()), func(c *cobra.Command) bool { return !c.IsAvailableCommand() })
}

// escape makes text that roff leaves as it is.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
