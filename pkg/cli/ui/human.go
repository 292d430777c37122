package ui

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// ShortID is an id as tables show it: 12 hex digits, without "sha256:".
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

// Ellipsis cuts s to n characters, the last of which then is "…".
func Ellipsis(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	switch {
	case n <= 0:
		return ""
	case n == 1:
		return string(r[:1])
	}
	return string(r[:n-1]) + "…"
}

// Labels are labels as tables show them: k=v,k=v, sorted.
func Labels(m map[string]string) string {
	var list []string
	for k, v := range m {
		list = append(list, k+"="+v)
	}
	slices.Sort(list)
	return strings.Join(list, ",")
}

// TimeLayout is how tables print a moment.
const TimeLayout = "2006-01-02 15:04:05 -0700 MST"
