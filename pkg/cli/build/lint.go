package build

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/cli/ui"
)

// source is the Dockerfile, for excerpts.
func (j *job) source() graph.Source { return graph.Source{Name: filepath.Base(j.name), Data: j.text} }

func (j *job) showNotes() {
	if j.view == "quiet" {
		return
	}
	for _, n := range j.notes {
		fmt.Fprintln(j.s.Err, "[Warning] "+n)
	}
}

// showWarnings prints what the lint rules found, below the picture of a build.
func (j *job) showWarnings() {
	n := len(j.warnings)
	if n == 0 || j.view == "quiet" || j.call != "build" {
		return
	}
	if j.view == "rawjson" {
		j.rawWarnings()
		return
	}
	s := "s"
	if n == 1 {
		s = ""
	}
	fmt.Fprintf(j.s.Err, "\n %d warning%s found (use --check to see the lines):\n", n, s)
	for _, w := range j.warnings {
		fmt.Fprintln(j.s.Err, " - "+shortWarning(w))
	}
	j.warnings = nil
}

func shortWarning(w dockerfile.Warning) string {
	at := ""
	if len(w.Lines) > 0 {
		at = fmt.Sprintf(" (line %d)", w.Lines[0].StartLine)
	}
	return w.Rule + ": " + w.Message + at
}

// rawWarnings writes them as BuildKit's messages have them. A warning of its lint rules
// has the level 1.
func (j *job) rawWarnings() {
	type raw struct {
		Level  int         `json:"level"`
		Short  []byte      `json:"short"`  // base64
		Detail [][]byte    `json:"detail"` // base64
		URL    string      `json:"url,omitempty"`
		Source *jsonSource `json:"sourceInfo"`
		Range  []jsonRange `json:"range,omitempty"`
	}
	var out struct {
		Warnings []raw `json:"warnings"`
	}
	for _, w := range j.warnings {
		out.Warnings = append(out.Warnings, raw{
			1, []byte(shortWarning(w)), [][]byte{[]byte(w.Description)}, w.URL,
			&jsonSource{filepath.Base(j.name), j.text, "Dockerfile"}, location(w.Lines).Ranges,
		})
	}
	_ = json.NewEncoder(j.s.Err).Encode(out) // nobody is left to tell
}

// checked is the end of --check: what was found, on stdout. failed is why the
// Dockerfile could not be read as a whole.
func (j *job) checked(failed error) error {
	j.log.Close()
	var located *dockerfile.Error
	if failed != nil && !errors.As(failed, &located) {
		return failed
	}
	if j.asJSON {
		return j.checkedJSON(located)
	}
	n := len(j.warnings)
	switch {
	case n == 0 && located == nil:
		fmt.Fprintln(j.s.Out, "Check complete, no warnings found.")
		return nil
	case n == 1:
		fmt.Fprintln(j.s.Out, "Check complete, 1 warning has been found!")
	case n > 1:
		fmt.Fprintf(j.s.Out, "Check complete, %d warnings have been found!\n", n)
	}
	slices.SortStableFunc(j.warnings, func(a, b dockerfile.Warning) int {
		return cmp.Compare(firstLine(a.Lines), firstLine(b.Lines))
	})
	for _, w := range j.warnings {
		fmt.Fprintf(j.s.Out, "\nWARNING: %s", w.Rule)
		if w.URL != "" {
			fmt.Fprintf(j.s.Out, " - %s", w.URL)
		}
		fmt.Fprintf(j.s.Out, "\n%s\n%s", w.Message, j.source().Excerpt(w.Lines))
	}
	if located != nil {
		return failed
	}
	return &ui.ExitError{Code: ui.CodeFailure}
}

// checkedJSON prints the findings as buildx's --call=check,format=json does.
func (j *job) checkedJSON(located *dockerfile.Error) error {
	out := struct {
		Warnings []jsonWarning `json:"warnings"`
		Sources  []jsonSource  `json:"sources"`
		Error    *jsonError    `json:"buildError,omitempty"`
	}{Warnings: []jsonWarning{}, Sources: []jsonSource{}}
	for _, w := range j.warnings {
		out.Warnings = append(out.Warnings, jsonWarning{w.Rule, w.Description, w.URL, w.Message, location(w.Lines)})
	}
	if len(out.Warnings) > 0 || located != nil {
		out.Sources = append(out.Sources, jsonSource{filepath.Base(j.name), j.text, "Dockerfile"})
	}
	if located != nil {
		out.Error = &jsonError{located.Error(), location(located.Lines)}
	}
	e := json.NewEncoder(j.s.Out)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		return err
	}
	if len(j.warnings) > 0 || located != nil {
		return &ui.ExitError{Code: ui.CodeFailure}
	}
	return nil
}

// explain shows where in the Dockerfile an error comes from, and gives it
// BuildKit's words.
func (j *job) explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*ui.ExitError](err); ok {
		return err
	}
	var excerpt string
	var step *build.StepError
	var at *dockerfile.Error
	switch {
	case errors.As(err, &at):
		excerpt = graph.Source{Name: filepath.Base(j.name), Data: j.text}.Excerpt(at.Lines)
	case errors.As(err, &step):
		excerpt = j.source().Excerpt(step.Lines)
	}
	if j.solving && !errors.Is(err, context.Canceled) {
		err = fmt.Errorf("failed to solve: %w", err)
	}
	if !errors.Is(err, context.Canceled) {
		err = &buildError{err}
	}
	if excerpt != "" && j.view != "rawjson" {
		fmt.Fprint(j.s.Err, excerpt)
	}
	return err
}

// buildError is a build's failure, whose line is buildx's.
type buildError struct{ err error }

// Error is what went wrong.
func (e *buildError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *buildError) Unwrap() error { return e.err }

// Line is what buildx prints, whose readers look for it.
func (e *buildError) Line() string { return "ERROR: failed to build: " + e.err.Error() }
