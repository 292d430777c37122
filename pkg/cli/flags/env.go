package flags

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"cais.dev/cais/pkg/errs"
)

// maxFile is the longest env, label or seccomp file that is read.
const maxFile = 4 << 20

// Env is what flags are read against: the caller's environment and directory.
type Env struct {
	LookupEnv func(key string) (string, bool)
	All       []string // the whole environment, for --env-host
	Dir       string   // working directory, for relative bind sources
	Home      string   // to say what an unexpanded ~ would have been
	// Proxies are variables that count more than those of files and less than -e,
	// which is what Docker does with the ones from its configuration.
	Proxies []string
}

func (e Env) lookup(key string) (string, bool) {
	if e.LookupEnv == nil {
		return "", false
	}
	return e.LookupEnv(key)
}

// Environment merges env files, proxies and -e, of which the later wins: entries K=V,
// with K alone taken from the caller. Where he has none, -e leaves K as it is, which
// keeps cais' and the image's out; of a file the line means nothing.
func Environment(vars, files []string, env Env) ([]string, error) {
	var out []string
	for _, f := range files {
		lines, err := readKeyFile(f, "variable")
		if err != nil {
			return nil, err
		}
		for _, l := range lines {
			out = env.appendVar(out, l)
		}
	}
	out = append(out, env.Proxies...)
	for _, v := range vars {
		if key, _, _ := strings.Cut(v, "="); key == "" {
			return nil, invalid("invalid environment variable: %s", v)
		}
		n := len(out)
		if out = env.appendVar(out, v); len(out) == n {
			out = append(out, v)
		}
	}
	return out, nil
}

func (e Env) appendVar(list []string, v string) []string {
	if strings.Contains(v, "=") {
		return append(list, v)
	}
	if val, ok := e.lookup(v); ok {
		return append(list, v+"="+val)
	}
	return list
}

// readKeyFile reads Docker's --env-file and --label-file: KEY=VALUE or KEY on a
// line, taken literally: no quotes, no escapes.
func readKeyFile(file, what string) ([]string, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	var out []string
	text := strings.TrimPrefix(data, "\ufeff")
	for n, line := range strings.Split(text, "\n") {
		line = strings.TrimSuffix(line, "\r")
		switch {
		case !utf8.ValidString(line):
			return nil, invalid("invalid utf8 bytes at line %d of %s", n+1, file)
		case strings.IndexByte(line, 0) >= 0:
			return nil, invalid("line %d of %s contains a NUL byte", n+1, file)
		}
		line = strings.TrimLeft(line, " \t")
		if line == "" || line[0] == '#' {
			continue
		}
		key, _, _ := strings.Cut(line, "=")
		if key == "" {
			return nil, invalid("invalid %s: '%s' in %s: empty name", what, line, file)
		}
		if strings.ContainsAny(key, " \t") {
			return nil, invalid("invalid %s: '%s' in %s: name contains whitespace", what, key, file)
		}
		out = append(out, line)
	}
	return out, nil
}

func readFile(file string) (string, error) {
	st, err := os.Stat(file)
	if err == nil && st.Size() > maxFile {
		return "", invalid("%s is larger than 4 MiB", file)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", errs.E("", errs.Invalid, err)
	}
	return string(data), nil
}

// dotenv reads --dotenv FILE: lines KEY=VALUE as shells quote them. 'single'
// quotes keep all, "double" quotes know \n \r \t \" \\ \$ and ${VAR}, which
// stands for an earlier line's value or the caller's; what is not quoted ends
// at " #". "export" before a line is passed over.
func dotenv(file string, env Env) ([]string, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	d := dotenvReader{env: env, known: map[string]string{}}
	for n, line := range strings.Split(strings.TrimPrefix(text, "\ufeff"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		kv, err := d.line(strings.TrimSpace(strings.TrimPrefix(line, "export ")))
		if err != nil {
			return nil, invalid("%s: line %d: %s", filepath.Base(file), n+1, err.Error())
		}
		d.out = append(d.out, kv)
	}
	return d.out, nil
}

type dotenvReader struct {
	env   Env
	known map[string]string
	out   []string
}

func (d *dotenvReader) line(line string) (string, error) {
	key, val, ok := strings.Cut(line, "=")
	key, val = strings.TrimSpace(key), strings.TrimSpace(val)
	if !ok || key == "" || strings.ContainsAny(key, " \t'\"") {
		return "", fmt.Errorf("want KEY=VALUE, not %q", line)
	}
	var out strings.Builder
	switch {
	case strings.HasPrefix(val, "'"):
		body, rest, ok := strings.Cut(val[1:], "'")
		if !ok || !comment(rest) {
			return "", fmt.Errorf("the quote of %s does not end the line", key)
		}
		out.WriteString(body)
	case strings.HasPrefix(val, `"`):
		rest, ok := d.expand(&out, val[1:], true)
		if !ok || !comment(rest) {
			return "", fmt.Errorf("the quote of %s does not end the line", key)
		}
	default:
		if i := strings.Index(" "+val, " #"); i >= 0 {
			val = strings.TrimSpace(val[:max(i-1, 0)])
		}
		d.expand(&out, val, false)
	}
	d.known[key] = out.String()
	return key + "=" + out.String(), nil
}

func comment(rest string) bool {
	rest = strings.TrimSpace(rest)
	return rest == "" || rest[0] == '#'
}

// expand copies s with escapes and variables replaced; if quoted, up to the
// closing quote. It returns what follows that, and whether there was one.
func (d *dotenvReader) expand(out *strings.Builder, s string, quoted bool) (rest string, closed bool) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && quoted:
			return s[i+1:], true
		case c == '\\' && quoted && i+1 < len(s):
			i++
			switch s[i] {
			case 'n':
				out.WriteByte('\n')
			case 'r':
				out.WriteByte('\r')
			case 't':
				out.WriteByte('\t')
			case '"', '\\', '$':
				out.WriteByte(s[i])
			default:
				out.WriteByte('\\')
				out.WriteByte(s[i])
			}
		case c == '$':
			name, used := variable(s[i+1:])
			if used == 0 {
				out.WriteByte(c)
				continue
			}
			if val, ok := d.known[name]; ok {
				out.WriteString(val)
			} else if val, ok := d.env.lookup(name); ok {
				out.WriteString(val)
			}
			i += used
		default:
			out.WriteByte(c)
		}
	}
	return "", false
}

// variable reads NAME or {NAME}, and returns how long that was.
func variable(s string) (name string, used int) {
	if strings.HasPrefix(s, "{") {
		name, _, ok := strings.Cut(s[1:], "}")
		if !ok || name == "" {
			return "", 0
		}
		return name, len(name) + 2
	}
	for used < len(s) && (s[used] == '_' || s[used] >= '0' && s[used] <= '9' && used > 0 || s[used]|0x20 >= 'a' && s[used]|0x20 <= 'z') {
		used++
	}
	return s[:used], used
}

// labels merges label files and flags: KEY or KEY=VALUE, the later wins.
func labels(flags, files []string) (map[string]string, error) {
	var all []string
	for _, f := range files {
		lines, err := readKeyFile(f, "label")
		if err != nil {
			return nil, err
		}
		all = append(all, lines...)
	}
	return keyValues("label", append(all, flags...))
}

// keyValues reads K=V entries; K alone has an empty value.
// KeyValues reads entries K=V of a flag that errors name what.
func KeyValues(what string, entries []string) (map[string]string, error) {
	return keyValues(what, entries)
}

func keyValues(what string, entries []string) (map[string]string, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	m := make(map[string]string, len(entries))
	for _, e := range entries {
		key, val, _ := strings.Cut(e, "=")
		if strings.TrimSpace(key) == "" {
			return nil, invalid("invalid %s '%s': empty name", what, e)
		}
		m[key] = val
	}
	return m, nil
}
