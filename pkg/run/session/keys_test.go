package session

import (
	"bytes"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func TestParseDetachKeys(t *testing.T) {
	for in, want := range map[string]string{
		"":               "\x10\x11",
		"ctrl-p,ctrl-q":  "\x10\x11",
		"a":              "a",
		"a,b":            "ab",
		"ctrl-@,ctrl-[":  "\x00\x1b",
		`ctrl-\,ctrl-]`:  "\x1c\x1d",
		"ctrl-^,ctrl-_":  "\x1e\x1f",
		"ctrl-a,DEL":     "\x01\x7f",
		"ctrl-A":         "",
		"ctrl-a,a,del,é": "",
		"ctrl-":          "",
		"ctrl-1":         "",
		"xy":             "",
		"a,":             "",
	} {
		got, err := ParseDetachKeys(in)
		if want == "" {
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("%q: %q, %v; want Invalid", in, got, err)
			}
			continue
		}
		if err != nil || string(got) != want {
			t.Errorf("%q: %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestDetacher(t *testing.T) {
	tests := []struct {
		name, keys string
		in         []string
		want       string
		detached   bool
	}{
		{"no keys", "", []string{"a\x10\x11"}, "a\x10\x11", false},
		{"at once", "\x10\x11", []string{"ab\x10\x11cd"}, "ab", true},
		{"in two pieces", "\x10\x11", []string{"ab\x10", "\x11"}, "ab", true},
		{"broken", "\x10\x11", []string{"ab\x10", "c"}, "ab\x10c", false},
		{"broken by its own first key", "\x10\x11", []string{"\x10\x10\x11"}, "\x10", true},
		{"a beginning within the sequence", "aab", []string{"aaab"}, "a", true},
		{"the end comes first", "\x10\x11", []string{"ab\x10"}, "ab\x10", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := detacher{keys: []byte(tt.keys)}
			var got []byte
			detached := false
			for _, p := range tt.in {
				var out []byte
				out, detached = d.filter([]byte(p))
				got = append(got, out...)
			}
			if !detached {
				got = append(got, d.rest()...)
			}
			if string(got) != tt.want || detached != tt.detached {
				t.Errorf("passed on %q, detached %v; want %q, %v", got, detached, tt.want, tt.detached)
			}
		})
	}
}

// FuzzDetacher: whatever the keys, what is passed on and the sequence together
// are what was typed.
func FuzzDetacher(f *testing.F) {
	f.Add([]byte("aab"), []byte("aaabaab"), 3)
	f.Fuzz(func(t *testing.T, keys, in []byte, at int) {
		if len(keys) == 0 || len(keys) > 8 || at < 0 || at > len(in) {
			t.Skip()
		}
		d := detacher{keys: keys}
		out, detached := d.filter(in[:at])
		if !detached {
			var more []byte
			more, detached = d.filter(in[at:])
			out = append(out, more...)
		}
		want := in
		if i := bytes.Index(in, keys); i >= 0 {
			want = in[:i]
		}
		if !detached {
			out = append(out, d.rest()...)
		}
		if !bytes.Equal(out, want) || detached != bytes.Contains(in, keys) {
			t.Errorf("keys %q, typed %q cut at %d: passed on %q, detached %v", keys, in, at, out, detached)
		}
	})
}
