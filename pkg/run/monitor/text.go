package monitor

// What package strings would do: it brings the tables of package unicode along,
// whose initialisation every monitor would wait for.

func hasPrefix(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// cut returns what is before and behind the first sep.
func cut(s, sep string) (before, after string, found bool) {
	for i := 0; i+len(sep) <= len(s); i++ {
		if s[i:i+len(sep)] == sep {
			return s[:i], s[i+len(sep):], true
		}
	}
	return s, "", false
}

func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

func trimLeft(s string) string {
	for s != "" && blank(s[0]) {
		s = s[1:]
	}
	return s
}

// fields returns the words of s.
func fields(s string) []string {
	var words []string
	for s = trimLeft(s); s != ""; s = trimLeft(s) {
		n := 0
		for n < len(s) && !blank(s[n]) {
			n++
		}
		words = append(words, s[:n])
		s = s[n:]
	}
	return words
}
