package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"cais.dev/cais/pkg/build/dockerfile"
	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/engine"
)

// The JSON of buildx's --call, which is that of BuildKit's messages: what is zero
// is left out.
type (
	jsonPosition struct {
		Line      int `json:"line,omitempty"`
		Character int `json:"character,omitempty"`
	}
	jsonRange struct {
		Start jsonPosition `json:"start"`
		End   jsonPosition `json:"end"`
	}
	jsonLocation struct {
		Ranges []jsonRange `json:"ranges,omitempty"`
	}
	jsonWarning struct {
		RuleName    string        `json:"ruleName"`
		Description string        `json:"description,omitempty"`
		URL         string        `json:"url,omitempty"`
		Detail      string        `json:"detail,omitempty"`
		Location    *jsonLocation `json:"location,omitempty"`
	}
	jsonSource struct {
		Filename string `json:"filename,omitempty"`
		Data     []byte `json:"data,omitempty"`
		Language string `json:"language,omitempty"`
	}
	jsonError struct {
		Message  string        `json:"message"`
		Location *jsonLocation `json:"location,omitempty"`
	}
	jsonTarget struct {
		Name        string        `json:"name,omitempty"`
		Default     bool          `json:"default,omitempty"`
		Description string        `json:"description,omitempty"`
		Base        string        `json:"base,omitempty"`
		Platform    string        `json:"platform,omitempty"`
		Location    *jsonLocation `json:"location,omitempty"`
	}
	jsonArg struct {
		Name        string        `json:"name"`
		Description string        `json:"description,omitempty"`
		Value       string        `json:"value,omitempty"`
		Location    *jsonLocation `json:"location,omitempty"`
	}
	jsonMount struct {
		Name     string        `json:"name"`
		Required bool          `json:"required,omitempty"`
		Location *jsonLocation `json:"location,omitempty"`
	}
	jsonOutline struct {
		Name        string      `json:"name,omitempty"`
		Description string      `json:"description,omitempty"`
		Args        []jsonArg   `json:"args,omitempty"`
		Secrets     []jsonMount `json:"secrets,omitempty"`
		SSH         []jsonMount `json:"ssh,omitempty"`
		Sources     [][]byte    `json:"sources,omitempty"`
	}
)

func location(lines []graph.Range) *jsonLocation {
	l := &jsonLocation{}
	for _, r := range lines {
		l.Ranges = append(l.Ranges, jsonRange{
			jsonPosition{r.StartLine, r.StartColumn}, jsonPosition{max(r.EndLine, r.StartLine), r.EndColumn},
		})
	}
	return l
}

func firstLine(lines []graph.Range) int {
	if len(lines) == 0 {
		return 0
	}
	return lines[0].StartLine
}

// columns aligns what is between tabs, as buildx does.
func columns(w io.Writer, between int) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, between, ' ', 0)
}

func indented(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// targets prints the stages that can be built.
func (j *job) targets() error {
	j.log.Close()
	list, err := dockerfile.Targets(j.text, j.name)
	if err != nil {
		return err
	}
	if j.asJSON {
		out := struct {
			Targets []jsonTarget `json:"targets"`
			Sources [][]byte     `json:"sources"`
		}{Sources: [][]byte{j.text}}
		for _, t := range list {
			out.Targets = append(out.Targets, jsonTarget{t.Name, t.Default, t.Description, t.Base, t.Platform, location(t.Lines)})
		}
		return indented(j.s.Out, out)
	}
	w := columns(j.s.Out, 1)
	fmt.Fprintln(w, "TARGET\tDESCRIPTION")
	for _, t := range list {
		name := t.Name
		switch {
		case name == "" && t.Default:
			name = "(default)"
		case t.Default:
			name += " (default)"
		}
		fmt.Fprintf(w, "%s\t%s\n", name, t.Description)
	}
	return w.Flush()
}

// outline prints what the target can be given.
func (j *job) outline(ctx context.Context, b *engine.Builder) error {
	o, err := dockerfile.Describe(ctx, j.text, j.options(ctx, b))
	j.log.Close()
	if err != nil {
		return err
	}
	if j.asJSON {
		out := jsonOutline{Name: o.Name, Description: o.Description, Sources: [][]byte{j.text}}
		for _, a := range o.Args {
			out.Args = append(out.Args, jsonArg{a.Name, a.Description, a.Value, location(a.Lines)})
		}
		for _, m := range o.Secrets {
			out.Secrets = append(out.Secrets, jsonMount{m.Name, m.Required, location(m.Lines)})
		}
		for _, m := range o.SSH {
			out.SSH = append(out.SSH, jsonMount{m.Name, m.Required, location(m.Lines)})
		}
		return indented(j.s.Out, out)
	}
	if o.Name != "" || o.Description != "" {
		name := o.Name
		if name == "" {
			name = "(default)"
		}
		w := columns(j.s.Out, 1)
		fmt.Fprintf(w, "TARGET:\t%s\n", name)
		if o.Description != "" {
			fmt.Fprintf(w, "DESCRIPTION:\t%s\n", o.Description)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(j.s.Out)
	}
	if len(o.Args) > 0 {
		w := columns(j.s.Out, 3)
		fmt.Fprintln(w, "BUILD ARG\tVALUE\tDESCRIPTION")
		for _, a := range o.Args {
			fmt.Fprintf(w, "%s\t%s\t%s\n", a.Name, a.Value, a.Description)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(j.s.Out)
	}
	for _, t := range []struct {
		name string
		list []dockerfile.OutlineMount
	}{{"SECRET", o.Secrets}, {"SSH", o.SSH}} {
		if len(t.list) == 0 {
			continue
		}
		w := columns(j.s.Out, 3)
		fmt.Fprintf(w, "%s\tREQUIRED\n", t.name)
		for _, m := range t.list {
			required := ""
			if m.Required {
				required = "true"
			}
			fmt.Fprintf(w, "%s\t%s\n", m.Name, required)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(j.s.Out)
	}
	return nil
}
