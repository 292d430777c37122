// Package system holds the commands about cais itself and about this machine.
package system

import (
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cais.dev/cais/pkg/cli/complete"
	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/engine"
)

// What scripts are told of Docker's engine: they compare it with the least
// version they work with.
const (
	Emulated      = "28.5.2"
	emulatedAPI   = "1.51"
	emulatedLeast = "1.24"
	// emulatedPodman is what they are told by the name of podman.
	emulatedPodman = "5.4.2"
)

func isPodman(e *engine.Engine) bool {
	args := e.Options().Args
	return len(args) > 0 && filepath.Base(args[0]) == "podman"
}

// VersionLine prints what --version prints.
func VersionLine(w io.Writer, e *engine.Engine) error {
	b := e.Build()
	commit := b.Commit
	if commit == "" {
		commit = "unknown"
	}
	var err error
	switch {
	case e.Options().Docker:
		_, err = fmt.Fprintf(w, "Docker version %s, build %s (cais %s)\n", Emulated, commit, b.Version)
	case isPodman(e): // the last word counts for podman-compose
		_, err = fmt.Fprintf(w, "podman version %s\n", emulatedPodman)
	default:
		_, err = fmt.Fprintf(w, "cais version %s, build %s\n", b.Version, commit)
	}
	return err
}

// versions is what version prints. The Go names are Docker's, and so are the
// JSON keys where they differ.
type versions struct {
	Client clientVersion
	Server serverVersion
}

type clientVersion struct {
	Platform          platformName
	Version           string
	APIVersion        string `json:"ApiVersion"`
	DefaultAPIVersion string
	GitCommit         string
	GoVersion         string
	Os                string
	Arch              string
	BuildTime         string
	Context           string
}

type serverVersion struct {
	Platform      platformName
	Components    []component
	Version       string
	APIVersion    string `json:"ApiVersion"`
	MinAPIVersion string
	GitCommit     string
	GoVersion     string
	Os            string
	Arch          string
	KernelVersion string
	BuildTime     string
	Experimental  bool `json:",omitempty"`
}

type platformName struct{ Name string }

type component struct {
	Name    string
	Version string
	Details map[string]string
}

// newVersions fills in both halves: there is no server, but scripts look there
// for what this machine can do.
func newVersions(e *engine.Engine, kernel string) versions {
	b := e.Build()
	own := b.Version
	switch {
	case e.Options().Docker:
		own = Emulated
	case isPodman(e):
		own = emulatedPodman
	}
	built := buildTime(b.Time)
	v := versions{
		Client: clientVersion{
			Version: own, APIVersion: emulatedAPI, DefaultAPIVersion: emulatedAPI, GitCommit: b.Commit,
			GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, BuildTime: built, Context: "default",
		},
		Server: serverVersion{
			Platform: platformName{"cais"},
			Version:  Emulated, APIVersion: emulatedAPI, MinAPIVersion: emulatedLeast, GitCommit: b.Commit,
			GoVersion: runtime.Version(), Os: runtime.GOOS, Arch: runtime.GOARCH, KernelVersion: kernel, BuildTime: built,
		},
	}
	v.Server.Components = []component{
		{Name: "Engine", Version: Emulated, Details: map[string]string{
			"ApiVersion": emulatedAPI, "Arch": runtime.GOARCH, "BuildTime": built, "Experimental": "false", "GitCommit": b.Commit,
			"GoVersion": runtime.Version(), "KernelVersion": kernel, "MinAPIVersion": emulatedLeast, "Os": runtime.GOOS,
		}},
		{Name: "cais", Version: b.Version, Details: map[string]string{"GitCommit": b.Commit}},
	}
	return v
}

// buildTime is a moment in RFC 3339 as Docker prints it.
func buildTime(s string) string {
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return s
	}
	return t.Format(time.ANSIC)
}

// NewVersion makes "version".
func NewVersion(e *engine.Engine, s ui.Streams) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "version [OPTIONS]",
		Short:             "Show version information",
		Args:              ui.NoArgs,
		ValidArgsFunction: complete.None,
		RunE: func(*cobra.Command, []string) error {
			v := newVersions(e, kernelVersion())
			if format != "" {
				return ui.Print(s.Out, v, format, ui.CodeTemplate)
			}
			return writeVersions(s.Out, v)
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "Print in a `form`: json, or a Go template")
	return cmd
}

// writeVersions prints Docker's text form; without a template, because this is
// the command that shows what starting costs.
func writeVersions(w io.Writer, v versions) error {
	var b strings.Builder
	line := func(indent, key, value string) { fmt.Fprintf(&b, "%s%-*s%s\n", indent, 20-len(indent), key+":", value) }
	c, s := v.Client, v.Server
	b.WriteString("Client:\n")
	line(" ", "Version", c.Version)
	line(" ", "API version", c.APIVersion)
	line(" ", "Go version", c.GoVersion)
	line(" ", "Git commit", c.GitCommit)
	line(" ", "Built", c.BuildTime)
	line(" ", "OS/Arch", c.Os+"/"+c.Arch)
	line(" ", "Context", c.Context)
	fmt.Fprintf(&b, "\nServer: %s\n Engine:\n", s.Platform.Name)
	line("  ", "Version", s.Version)
	line("  ", "API version", s.APIVersion+" (minimum version "+s.MinAPIVersion+")")
	line("  ", "Go version", s.GoVersion)
	line("  ", "Git commit", s.GitCommit)
	line("  ", "Built", s.BuildTime)
	line("  ", "OS/Arch", s.Os+"/"+s.Arch)
	line("  ", "Experimental", "false")
	for _, c := range s.Components[1:] {
		fmt.Fprintf(&b, " %s:\n", c.Name)
		line("  ", "Version", c.Version)
		line("  ", "GitCommit", c.Details["GitCommit"])
	}
	_, err := io.WriteString(w, trimEnds(b.String()))
	return err
}

// trimEnds takes the spaces off line ends, where a value was empty.
func trimEnds(s string) string {
	lines := strings.Split(s, "\n")
	for i := range lines {
		lines[i] = strings.TrimRight(lines[i], " ")
	}
	return strings.Join(lines, "\n")
}

func kernelVersion() string {
	var u syscall.Utsname
	if syscall.Uname(&u) != nil {
		return ""
	}
	return cString(u.Release[:])
}

func cString[T ~int8 | ~uint8](s []T) string {
	var b strings.Builder
	for _, c := range s {
		if c == 0 {
			break
		}
		b.WriteByte(byte(c))
	}
	return b.String()
}
