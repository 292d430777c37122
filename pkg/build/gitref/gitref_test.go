package gitref

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	yes, no := true, false
	for in, want := range map[string]Ref{
		"https://github.com/a/b.git":                                {Remote: "https://github.com/a/b.git"},
		"https://github.com/a/b.git#v1":                             {Remote: "https://github.com/a/b.git", Ref: "v1"},
		"https://github.com/a/b.git#v1:sub/dir/":                    {Remote: "https://github.com/a/b.git", Ref: "v1", Subdir: "sub/dir"},
		"https://github.com/a/b.git#:../../x":                       {Remote: "https://github.com/a/b.git", Subdir: "x"},
		"https://u:p@host/b.git?branch=main&subdir=x":               {Remote: "https://u:p@host/b.git", Ref: "refs/heads/main", Subdir: "x"},
		"https://host/b.git?tag=v1&commit=1234&keep-git-dir":        {Remote: "https://host/b.git", Ref: "refs/tags/v1", Checksum: "1234", KeepDir: &yes},
		"https://host/b.git?submodules=false&mtime=commit&ref=main": {Remote: "https://host/b.git", Ref: "main", Submodules: &no, MTime: "commit"},
		"https://host/b.git?checksum=12&fetch-by-commit=1":          {Remote: "https://host/b.git", Checksum: "12", FetchByCommit: true},
		"git@github.com:a/b":                                        {Remote: "git@github.com:a/b"},
		"git@github.com:a/b.git?ref=x#x:d":                          {Remote: "git@github.com:a/b.git", Ref: "x", Subdir: "d"},
		"ssh://git@host:22/b#r":                                     {Remote: "ssh://git@host:22/b", Ref: "r"},
		"git://host/b":                                              {Remote: "git://host/b"},
		"github.com/a/b#r":                                          {Remote: "github.com/a/b", Ref: "r", Bare: true},
	} {
		got, err := Parse(in)
		if err != nil {
			t.Errorf("%s: %v", in, err)
			continue
		}
		for _, p := range [][2]*bool{{got.KeepDir, want.KeepDir}, {got.Submodules, want.Submodules}} {
			if (p[0] == nil) != (p[1] == nil) || p[0] != nil && *p[0] != *p[1] {
				t.Errorf("%s: %+v", in, got)
			}
		}
		got.KeepDir, got.Submodules, want.KeepDir, want.Submodules = nil, nil, nil, nil
		if got != want {
			t.Errorf("%s:\n%+v, want\n%+v", in, got, want)
		}
	}
	for _, in := range []string{"", ".", "dir", "./a@b:c", "../x.git", "https://host/file.tar.gz", "https://host/b", "ftp://host/b.git", "a b@c:d", "user@host", "C:\\x", "oci-layout://x"} {
		if _, err := Parse(in); !errors.Is(err, ErrNot) {
			t.Errorf("%q: %v, want ErrNot", in, err)
		}
	}
	for in, want := range map[string]string{
		"https://host/b.git?branch=a&tag=b":          "branch conflicts with tag",
		"https://host/b.git?ref=a#b":                 "ref conflicts",
		"https://host/b.git?branch=a#b":              "ref conflicts",
		"https://host/b.git?subdir=a#:b":             "subdir conflicts",
		"https://host/b.git?what=1":                  `unexpected query "what"`,
		"https://host/b.git?ref=":                    "has no value",
		"https://host/b.git?ref=a&ref=b":             "multiple values",
		"https://host/b.git?keep-git-dir=perhaps":    "invalid keep-git-dir",
		"https://host/b.git?mtime=now":               "invalid mtime",
		"https://host/b.git#--upload-pack=touch+x":   "hyphen",
		"https://host/b.git?commit=--upload-pack=x":  "hyphen",
		"git@host:b.git?ref=-x":                      "hyphen",
		"https://host/b.git?submodules=&submodules=": "multiple values",
	} {
		if _, err := Parse(in); err == nil || errors.Is(err, ErrNot) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
}
