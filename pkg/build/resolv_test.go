package build

import "testing"

func TestDNS(t *testing.T) {
	const host = "search a b\nnameserver 1.1.1.1\noptions ndots:2\n# c"
	tests := []struct {
		d    DNS
		want string
	}{
		{DNS{}, host},
		{DNS{Servers: []string{"9.9.9.9", "::1"}}, "search a b\noptions ndots:2\n# c\nnameserver 9.9.9.9\nnameserver ::1\n"},
		{DNS{Search: []string{"."}}, "nameserver 1.1.1.1\noptions ndots:2\n# c\n"},
		{DNS{Search: []string{"x"}, Options: []string{"o", "p"}}, "nameserver 1.1.1.1\n# c\nsearch x\noptions o p\n"},
	}
	for _, tt := range tests {
		if got := tt.d.text(host); got != tt.want {
			t.Errorf("%+v: %q, want %q", tt.d, got, tt.want)
		}
	}
}
