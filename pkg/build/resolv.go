package build

import "strings"

// DNS is what takes the place of lines of resolv.conf; nil leaves the lines.
type DNS struct{ Servers, Search, Options []string }

// text is resolv.conf with what d says.
func (d DNS) text(resolv string) string {
	if len(d.Servers)+len(d.Search)+len(d.Options) == 0 {
		return resolv
	}
	var b strings.Builder
	for line := range strings.Lines(resolv) {
		word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch {
		case word == "nameserver" && len(d.Servers) > 0, (word == "search" || word == "domain") && len(d.Search) > 0, word == "options" && len(d.Options) > 0:
			continue
		}
		b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
	}
	if s := strings.Join(d.Search, " "); s != "" && s != "." {
		b.WriteString("search " + s + "\n")
	}
	for _, s := range d.Servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(d.Options) > 0 {
		b.WriteString("options " + strings.Join(d.Options, " ") + "\n")
	}
	return b.String()
}
