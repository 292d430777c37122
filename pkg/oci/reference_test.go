package oci

import (
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

const digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestParse(t *testing.T) {
	tests := []struct {
		in, want, familiar string
	}{
		{"alpine", "docker.io/library/alpine", "alpine"},
		{"alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"},
		{"library/alpine", "docker.io/library/alpine", "alpine"},
		{"docker.io/alpine", "docker.io/library/alpine", "alpine"},
		{"index.docker.io/library/alpine:1", "docker.io/library/alpine:1", "alpine:1"},
		{"user/app", "docker.io/user/app", "user/app"},
		{"library/a/b", "docker.io/library/a/b", "library/a/b"},
		{"localhost/app", "localhost/app", "localhost/app"},
		{"localhost:5000/app:v1", "localhost:5000/app:v1", "localhost:5000/app:v1"},
		{"host.example/a/b/c", "host.example/a/b/c", "host.example/a/b/c"},
		{"Host/app", "Host/app", "Host/app"},
		{"[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"},
		{"[fe80::1]/app", "[fe80::1]/app", "[fe80::1]/app"},
		{"127.0.0.1:5000/app", "127.0.0.1:5000/app", "127.0.0.1:5000/app"},
		{"docker.io", "docker.io/library/docker.io", "docker.io"},
		{"a.b", "docker.io/library/a.b", "a.b"},
		{"alpine@" + digestA, "docker.io/library/alpine@" + digestA, "alpine@" + digestA},
		{"alpine:1@" + digestA, "docker.io/library/alpine:1@" + digestA, "alpine:1@" + digestA},
		{"a__b/c---d/e.f/g_h", "docker.io/a__b/c---d/e.f/g_h", "a__b/c---d/e.f/g_h"},
		{"x:" + strings.Repeat("t", 128), "docker.io/library/x:" + strings.Repeat("t", 128), "x:" + strings.Repeat("t", 128)},
		{"deadbeef", "docker.io/library/deadbeef", "deadbeef"},
	}
	for _, tt := range tests {
		r, err := Parse(tt.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.in, err)
			continue
		}
		if r.String() != tt.want || r.Familiar() != tt.familiar {
			t.Errorf("Parse(%q) = %q, familiar %q; want %q, %q", tt.in, r, r.Familiar(), tt.want, tt.familiar)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	const format = "invalid reference format"
	tests := []struct{ in, want string }{
		{"", format},
		{"Bad", "invalid reference format: repository name (library/Bad) must be lowercase"},
		{"user/Bad:x", "invalid reference format: repository name (user/Bad) must be lowercase"},
		{strings.Repeat("a1", 32), "cannot specify 64-byte hexadecimal strings"},
		{strings.Repeat("a", 244), "repository name must not be more than 255 characters"},
		{"a b", format}, {" a", format}, {"a:", format}, {"a@", format}, {":x", format}, {"@" + digestA, format},
		{"a:.x", format}, {"a:-x", format}, {"a:" + strings.Repeat("t", 129), format},
		{"a//b", format}, {"/a", format}, {"a/", format}, {"-a", format}, {"a-", format},
		{"a___b", format}, {"a..b", format}, {"a.-b", format}, {"a_.b", format},
		{"host:port/a", format}, {"host:/a", format}, {"-h.x/a", format}, {"h..x/a", format},
		{"[::1/a", format}, {"[]:1/a", format}, {"[::1]x/a", format}, {"[::g]/a", format},
		{"../a", format}, {"a/../b", format}, {"a:b:c", format}, {"a\x00b", format}, {"é", format},
		{"a@sha256:abc", "invalid checksum digest length"},
		{"a@sha512:" + strings.Repeat("a", 128), "unsupported digest algorithm"},
		{"a@sha256:../../../../../../../../../../../../../../../../../../../../aa", format},
		{"a@" + strings.ToUpper(digestA), "unsupported digest algorithm"},
		{"a@sha256:" + strings.Repeat("A", 64), "invalid checksum digest format"},
		{"http://a/b", format},
	}
	for _, tt := range tests {
		r, err := Parse(tt.in)
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q) = %+v, %v; want Invalid, %q", tt.in, r, err, tt.want)
		}
	}
	if _, err := Parse("https://host.example/app"); errs.HintOf(err) == "" {
		t.Errorf("a URL is refused without a hint: %v", err)
	}
}

func TestReferenceWith(t *testing.T) {
	r, err := Parse("a@" + digestA)
	if err != nil {
		t.Fatal(err)
	}
	if got := r.WithDefaultTag(); got != r {
		t.Errorf("WithDefaultTag changed %q to %q", r, got)
	}
	if got, want := r.WithTag("1").String(), "docker.io/library/a:1"; got != want {
		t.Errorf("WithTag: got %q, want %q", got, want)
	}
	if got, want := (Reference{Domain: "h.x", Path: "a"}).WithDefaultTag().String(), "h.x/a:latest"; got != want {
		t.Errorf("WithDefaultTag: got %q, want %q", got, want)
	}
	if got, want := r.WithTag("1").WithDigest(digestA), r; got != want {
		t.Errorf("WithDigest: got %q, want %q", got, want)
	}
}

// What is printed reads back as the same, in both forms.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"alpine", "localhost:5000/a/b:c@" + digestA, "[::1]:5/x", "library/a/b", "Bad", "docker.io/docker.io/x",
		"a__b---c.d", "index.docker.io/x", "localhost/x", "A/x", "a:b:c", "a@b@c",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		if r.Domain == "" || r.Path == "" || strings.Contains(r.Path, "..") {
			t.Fatalf("Parse(%q) = %+v", s, r)
		}
		for _, form := range []string{r.String(), r.Familiar()} {
			if again, err := Parse(form); err != nil || again != r {
				t.Errorf("Parse(%q) = %+v; its form %q gives %+v, %v", s, r, form, again, err)
			}
		}
	})
}
