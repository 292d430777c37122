// Package cli is the command line: the tree of commands, the global flags, the
// help texts, and [Main], which builds only the branch that the command line
// names.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"cais.dev/cais/pkg/cli/system"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/userns"
)

// Process is what Main needs of the process it runs in.
type Process struct {
	Args    []string // os.Args
	Environ []string // os.Environ()
	Getenv  func(string) string
	Streams ui.Streams
	Build   engine.Build
}

// Main runs the command line and returns the exit code. Signals cancel what it
// does.
func Main(ctx context.Context, p Process) int {
	name := "cais"
	if filepath.Base(p.Args[0]) == "docker" {
		name = "docker"
	}
	report := ui.Reporting{
		Failure: ui.CodeFailure,
		Docker:  name == "docker" || p.Getenv("CAIS_DOCKER_ERRORS") == "1",
	}
	args := p.Args[1:]
	if filepath.Base(p.Args[0]) == "cais-oci" { // an engine's runtime: it has flags of its own
		args = append([]string{"oci"}, args...)
	}
	g, rest, err := parseGlobals(name, args)
	if err != nil {
		return report.Report(ctx, p.Streams.Err, &ui.UsageError{Command: name, Code: ui.CodeUsage, Err: err})
	}
	if !isQuick(tree, rest) {
		var stop func()
		ctx, stop = ui.WithSignals(ctx)
		defer stop()
	}
	return report.Report(ctx, p.Streams.Err, execute(ctx, name, p, g, rest))
}

// isQuick reports whether the command that args name is one that a signal may
// simply end: it changes nothing and waits for nothing. Handling signals costs
// a command two threads, a tenth of its start.
func isQuick(nodes []node, args []string) bool {
	if len(args) == 0 {
		return true
	}
	n, ok := find(nodes, args[0])
	if ok && n.children != nil {
		return isQuick(n.children, args[1:])
	}
	return ok && n.quick
}

func execute(ctx context.Context, name string, p Process, g *globals, rest []string) (err error) {
	if err := g.check(); err != nil {
		return err
	}
	closeOut, err := g.redirect(&p.Streams)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeOut()) }()
	o := g.options()
	if len(rest) > 1 && isCompletion(rest[0]) { // the flags stand in the line that is completed
		if typed, cmd, err := parseGlobals(name, rest[1:]); err == nil && len(cmd) > 0 {
			o = typed.options()
		}
	}
	o.Build, o.Getenv, o.Args, o.Environ, o.Docker = p.Build, p.Getenv, p.Args, p.Environ, name == "docker"
	o.Stdin, o.Stdout, o.Stderr = p.Streams.In, p.Streams.Out, p.Streams.Err
	e := engine.New(o)

	if g.version {
		return system.VersionLine(p.Streams.Out, e)
	}
	root, err := makeRoot(name, e, p.Streams, g, rest)
	if err != nil {
		return err
	}
	if g.help || len(rest) == 0 {
		root.SetOut(p.Streams.Out)
		if !g.help {
			root.SetOut(p.Streams.Err)
		}
		return root.Help()
	}
	if rest[0] == "help" {
		return helpTopic(root, rest[1:])
	}
	root.SetArgs(rest)
	return ofHome(root.ExecuteContext(ctx), p.Getenv("HOME"), os.Geteuid())
}

// ofHome gives a denial below HOME the likely cause: su and sudo can leave a
// user with the directory of another.
func ofHome(err error, home string, uid int) error {
	if err == nil || home == "" || !strings.Contains(err.Error(), filepath.Join(home, ".")+"/") {
		return err
	}
	var st syscall.Stat_t
	if errs.KindOf(err) != errs.Denied && !errors.Is(err, fs.ErrPermission) || syscall.Stat(home, &st) != nil || int(st.Uid) == uid {
		return err
	}
	return errs.WithHint(err, "HOME is "+home+", which is another user's: set it to your own directory.")
}

// helpTopic prints the help of the command that path names.
func helpTopic(root *cobra.Command, path []string) error {
	cmd, rest, err := root.Find(path)
	if err != nil || len(rest) > 0 {
		return ui.UnknownCommand(root.Name(), strings.Join(path, " "), names(tree))
	}
	return cmd.Help()
}

// NewRoot returns the whole tree, for help, completion and the manual pages.
func NewRoot(name string, e *engine.Engine, s ui.Streams) *cobra.Command {
	root := newRoot(name, s)
	for _, n := range tree {
		root.AddCommand(n.all(e, s))
	}
	return root
}

// unquote takes the backquotes out of the flags' descriptions. They mark a
// value's name, which help takes out of them but a shell would show as it is.
func unquote(cmd *cobra.Command) {
	for _, fs := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
		fs.VisitAll(func(f *pflag.Flag) { _, f.Usage = pflag.UnquoteUsage(f) })
	}
	for _, c := range cmd.Commands() {
		unquote(c)
	}
}

// makeRoot returns the root with the one command that args names below it, or with
// all of them where all are needed.
func makeRoot(name string, e *engine.Engine, s ui.Streams, g *globals, args []string) (*cobra.Command, error) {
	root := newRoot(name, s)
	if g.help || len(args) == 0 || needsAll(args[0]) {
		for _, n := range tree {
			root.AddCommand(n.all(e, s))
		}
		if len(args) > 0 && isCompletion(args[0]) {
			unquote(root)
		}
		return root, nil
	}
	n, ok := find(tree, args[0])
	if !ok && slices.Contains(args, "--help") { // Docker's answer, and that of groups
		g.help = true
		return makeRoot(name, e, s, g, args)
	}
	if !ok {
		return nil, ui.UnknownCommand(name, args[0], names(tree))
	}
	cmd, err := n.branch(e, s, name+" "+n.name, args[1:])
	if err != nil {
		return nil, err
	}
	root.AddCommand(cmd)
	return root, nil
}

// needsAll reports whether the command works on the whole tree.
func needsAll(name string) bool {
	return name == "help" || isCompletion(name)
}

// isCompletion reports whether a shell asks, by the completion scripts.
func isCompletion(name string) bool {
	return name == cobra.ShellCompRequestCmd || name == cobra.ShellCompNoDescRequestCmd
}

func newRoot(name string, s ui.Streams) *cobra.Command {
	root := &cobra.Command{
		Use:   name + " [OPTIONS] COMMAND [ARG...]",
		Short: "Containers without a daemon",
		Annotations: map[string]string{
			cobra.CommandDisplayNameAnnotation: name,
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return ui.UnknownCommand(name, args[0], names(tree))
			}
			return cmd.Help()
		},
		Args:              cobra.ArbitraryArgs,
		SilenceErrors:     true,
		SilenceUsage:      true,
		TraverseChildren:  true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetHelpFunc(help)
	root.SetUsageFunc(usage)
	root.SetFlagErrorFunc(ui.FlagError)
	root.SetHelpCommand(&cobra.Command{Use: "no-help", Hidden: true})
	root.Flags().AddFlagSet(new(globals).flags()) // for the help: they were parsed before
	root.Flags().SetInterspersed(false)
	return root
}

// node is a command or a group of them, before it is built.
type node struct {
	name    string
	aliases []string
	short   string // of a group
	section string // the heading below which the root's help lists it
	hidden  bool
	quick   bool   // see isQuick
	of      string // what it is about, the same for all spellings of one command: "container stop"
	// One of the three:
	new      constructor
	children []node
	later    string // what it is, for commands that are not here yet

	instead string // of a later one, or of one that never comes: what to do
}

// constructor makes one command.
type constructor = func(*engine.Engine, ui.Streams) *cobra.Command

func find(nodes []node, name string) (node, bool) {
	i := slices.IndexFunc(nodes, func(n node) bool { return n.name == name || slices.Contains(n.aliases, name) })
	if i < 0 {
		return node{}, false
	}
	return nodes[i], true
}

// names are those of the nodes that cais has.
func names(nodes []node) []string {
	var all []string
	for _, n := range nodes {
		if n.later == "" && !n.hidden {
			all = append(all, n.name)
		}
	}
	return all
}

// all builds n and everything below it.
func (n node) all(e *engine.Engine, s ui.Streams) *cobra.Command {
	cmd := n.self(e, s)
	for _, c := range n.children {
		cmd.AddCommand(c.all(e, s))
	}
	return cmd
}

// branch builds n and what args name below it.
func (n node) branch(e *engine.Engine, s ui.Streams, path string, args []string) (*cobra.Command, error) {
	if n.children == nil {
		return n.self(e, s), nil
	}
	if len(args) == 0 || strings.HasPrefix(args[0], "-") || args[0] == "help" {
		return n.all(e, s), nil
	}
	c, ok := find(n.children, args[0])
	if !ok && slices.Contains(args, "--help") {
		return n.all(e, s), nil
	}
	if !ok {
		return nil, ui.UnknownCommand(path, args[0], names(n.children))
	}
	below, err := c.branch(e, s, path+" "+c.name, args[1:])
	if err != nil {
		return nil, err
	}
	cmd := n.self(e, s)
	cmd.AddCommand(below)
	return cmd, nil
}

// self builds n without what is below it.
func (n node) self(e *engine.Engine, s ui.Streams) *cobra.Command {
	var cmd *cobra.Command
	switch {
	case n.new != nil:
		cmd = n.new(e, s)
		cmd.Use = n.name + strings.TrimPrefix(cmd.Use, cmd.Name())
		cmd.Aliases = n.aliases
	case n.children != nil:
		cmd = group(n, s)
		if n.name == "buildx" { // Docker's has it before the command, too
			cmd.PersistentFlags().String("builder", "", "Accepted: there is one builder")
			_ = cmd.PersistentFlags().MarkHidden("builder")
		}
	default:
		cmd = later(n)
	}
	cmd.Hidden = cmd.Hidden || n.hidden
	cmd.DisableFlagsInUseLine = true
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[sectionKey], cmd.Annotations[SpellingKey] = n.section, n.of
	if !cmd.DisableFlagParsing {
		helpFlag(cmd.Flags())
	}
	if run := cmd.RunE; run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			warnIdle(cmd, s)
			return run(cmd, args)
		}
	}
	if args := cmd.Args; args != nil {
		cmd.Args = func(cmd *cobra.Command, a []string) error { return argsError(cmd, args(cmd, a)) }
	}
	return cmd
}

// warnIdle names the flags that were given and do nothing here, as their
// descriptions say: nothing is accepted and ignored in silence.
func warnIdle(cmd *cobra.Command, s ui.Streams) {
	if userns.Inside() { // it was said before the command ran again in there
		return
	}
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if why, idle := strings.CutPrefix(f.Usage, "Without effect"); idle && f.Value.String() != "false" {
			fmt.Fprintf(s.Err, "WARNING: --%s has no effect%s\n", f.Name, why)
		}
	})
}

// helpFlag is -h everywhere but where Docker gives the letter to --hostname.
func helpFlag(f *pflag.FlagSet) {
	if f.Lookup("help") != nil {
		return
	}
	if f.ShorthandLookup("h") != nil {
		f.Bool("help", false, "Print usage")
	} else {
		f.BoolP("help", "h", false, "Print usage")
	}
}

// argsError gives an error about arguments its form.
func argsError(cmd *cobra.Command, err error) error {
	if _, ok := errors.AsType[*ui.UsageError](err); err == nil || ok {
		return err
	}
	return &ui.UsageError{Command: cmd.CommandPath(), Usage: ui.UseLine(cmd), Code: ui.CodeFailure, Err: err}
}

// group is a command that only holds others. Alone it prints its help, on
// stderr as Docker does, since somebody who scripts it expected more.
func group(n node, s ui.Streams) *cobra.Command {
	return &cobra.Command{
		Use:     n.name + " COMMAND",
		Aliases: n.aliases,
		Short:   n.short,
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] != "help" {
				return ui.UnknownCommand(cmd.CommandPath(), args[0], names(n.children))
			}
			if len(args) == 0 {
				cmd.SetOut(s.Err)
			}
			return cmd.Help()
		},
	}
}
