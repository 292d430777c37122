package graph

import "testing"

func TestMode(t *testing.T) {
	for _, c := range []struct {
		mode      string
		old, want uint32
		dir       bool
	}{
		{"644", 0o777, 0o644, false},
		{"0", 0o777, 0, false},
		{"07777", 0, 0o7777, true},
		{"u=rwX,go=rX", 0o600, 0o644, false},
		{"u=rwX,go=rX", 0o700, 0o755, false},
		{"u=rwX,go=rX", 0o600, 0o755, true},
		{"+x", 0o644, 0o755, false},
		{"a-w", 0o666, 0o444, false},
		{"g=u", 0o640, 0o660, false},
		{"u+s,g+s,+t", 0o755, 0o7755, false},
		{"u+s", 0o755, 0o4755, false},
		{"o=", 0o777, 0o770, false},
		{"u=r+w-r", 0o700, 0o200, false},
		{"g=rx", 0o2700, 0o2750, true},
		{"g=rx", 0o2700, 0o0750, false},
	} {
		m, err := ParseMode(c.mode)
		if err != nil {
			t.Errorf("%s: %v", c.mode, err)
			continue
		}
		if got := m.Of(c.old, c.dir); got != c.want {
			t.Errorf("%s of %o: %o, want %o", c.mode, c.old, got, c.want)
		}
	}
	for _, s := range []string{"", "8", "10000", "999", "u", "x", "u=q", "u=rwx,", ",u=r", "u*r", "g=ux", "+r,"} {
		if _, err := ParseMode(s); err == nil {
			t.Errorf("%q is taken for a mode", s)
		}
	}
}
