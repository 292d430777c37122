package image

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/cli/ui"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/storage"
)

const (
	idA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	idB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	idC = "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"
	dig = "sha256:dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd"
)

var now = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

// fake is a store of three images that counts what is asked of it.
type fake struct{ sizes, configs int }

func (f *fake) Images(context.Context) ([]*storage.Image, error) {
	return []*storage.Image{
		{ID: idB, Names: []string{"docker.io/library/busybox:latest", "docker.io/library/busybox@" + dig, "docker.io/library/busybox:1.36"}, Created: now.Add(-50 * time.Hour)},
		{ID: idC, Created: now.Add(-100 * 24 * time.Hour)},
		{ID: idA, Names: []string{"localhost/app:v1", "quay.io/x/only@" + dig}, Created: now.Add(-time.Minute), ReadOnly: true},
	}, nil
}

func (f *fake) Short(string) ([]string, error) { return nil, nil }

func (f *fake) Image(ctx context.Context, refs ...string) (*storage.Image, error) {
	all, _ := f.Images(ctx)
	for _, img := range all {
		for _, r := range refs {
			if slices.Contains(img.Names, r) || strings.HasPrefix(img.ID, r) {
				return img, nil
			}
		}
	}
	return nil, errs.New(errs.NotFound, "no such image: "+refs[0])
}

func (f *fake) Config(_ context.Context, img *storage.Image) ([]byte, error) {
	f.configs++
	if img.ID == idB {
		return []byte(`{"os":"linux","architecture":"amd64","config":{"Labels":{"a":"b","c":""}}}`), nil
	}
	return []byte(`{}`), nil
}

func (f *fake) Manifest(context.Context, *storage.Image) ([]byte, error) {
	return []byte(`{"schemaVersion":2,"config":{"digest":"` + dig + `","size":1000},"layers":[{"digest":"` + dig + `","size":2000000}]}`), nil
}

func (f *fake) Seen() (*storage.Seen, error) { return &storage.Seen{}, nil }

func (f *fake) Listed(context.Context, []*storage.Image) (map[string]bool, error) { return nil, nil }

func (f *fake) Sizes(_ context.Context, imgs ...*storage.Image) (map[string]int64, error) {
	f.sizes++
	m := map[string]int64{}
	for _, img := range imgs {
		m[img.ID] = 1_981_000
	}
	return m, nil
}

func TestList(t *testing.T) {
	tests := []struct {
		name  string
		o     listOptions
		want  string
		sizes int
	}{
		{"all", listOptions{}, `REPOSITORY       TAG       IMAGE ID       CREATED              SIZE
localhost/app    v1        aaaaaaaaaaaa   About a minute ago   1.98MB
quay.io/x/only   <none>    aaaaaaaaaaaa   About a minute ago   1.98MB
busybox          latest    bbbbbbbbbbbb   2 days ago           1.98MB
busybox          1.36      bbbbbbbbbbbb   2 days ago           1.98MB
<none>           <none>    cccccccccccc   3 months ago         1.98MB
`, 1},
		{"digests", listOptions{digests: true, pattern: "busybox:latest"}, `REPOSITORY   TAG       DIGEST                                                                    IMAGE ID       CREATED      SIZE
busybox      latest    ` + dig + `   bbbbbbbbbbbb   2 days ago   1.98MB
`, 1},
		{"quiet repeats an id per tag, and needs no sizes", listOptions{table: ui.TableOptions{Quiet: true}, pattern: "busybox"}, "bbbbbbbbbbbb\nbbbbbbbbbbbb\n", 0},
		{"no-trunc", listOptions{table: ui.TableOptions{Quiet: true}, noTrunc: true, filters: []string{"dangling=true"}}, "sha256:" + idC + "\n", 0},
		{"template", listOptions{table: ui.TableOptions{Format: "{{.Repository}}:{{.Tag}} {{.Digest}}"}, pattern: "busy*:lat*"}, "busybox:latest " + none + "\n", 0},
		{"json", listOptions{table: ui.TableOptions{Format: "json"}, filters: []string{"dangling=1"}},
			`{"Containers":"N/A","CreatedAt":"2026-08-13 12:00:00 +0000 UTC","CreatedSince":"3 months ago","Digest":"\u003cnone\u003e","ID":"cccccccccccc",` +
				`"Repository":"\u003cnone\u003e","SharedSize":"N/A","Size":"1.98MB","Tag":"\u003cnone\u003e","UniqueSize":"N/A","VirtualSize":"1.98MB"}` + "\n", 1},
		{"no match", listOptions{pattern: "nope"}, "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n", 1},
		{"full name", listOptions{pattern: "docker.io/library/busybox:1.36", table: ui.TableOptions{Format: "{{.Tag}}"}}, "1.36\n", 0},
		{"label", listOptions{filters: []string{"label=a=b", "label=c"}, table: ui.TableOptions{Quiet: true}, pattern: "busybox:1.36"}, "bbbbbbbbbbbb\n", 0},
		{"another label", listOptions{filters: []string{"label=a=x"}, table: ui.TableOptions{Quiet: true}}, "", 0},
		{"before", listOptions{filters: []string{"before=localhost/app:v1", "since=cccccccccccc"}, table: ui.TableOptions{Format: "{{.Tag}}"}}, "latest\n1.36\n", 0},
		{"tree", listOptions{tree: true, pattern: "busybox:1.36"}, "IMAGE            ID             DISK USAGE   CONTENT SIZE\nbusybox:1.36     bbbbbbbbbbbb   1.98MB       2MB\n└─ linux/amd64   bbbbbbbbbbbb   1.98MB       2MB\n", 1},
		{"until", listOptions{filters: []string{"until=24h"}, table: ui.TableOptions{Quiet: true}, pattern: "busybox:1.36"}, "bbbbbbbbbbbb\n", 0},
	}
	t.Setenv("TZ", "UTC")
	was := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = was })
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			f := &fake{}
			tt.o.now = now
			err := list(t.Context(), ui.Streams{Out: &out}, f, tt.o)
			want := tt.want
			if tt.name == "template" { // naming the digest shows it
				want = "busybox:latest " + dig + "\n"
			}
			if err != nil || out.String() != want || f.sizes != tt.sizes {
				t.Errorf("got\n%s%v, sizes asked %d times; want\n%s%d times", out.String(), err, f.sizes, want, tt.sizes)
			}
		})
	}
}

func TestListRefuses(t *testing.T) {
	for filter, want := range map[string]string{
		"bogus=1":     "invalid filter 'bogus'",
		"bogus":       "bad format of filter (expected name=value)",
		"dangling=x":  "invalid filter 'dangling=x'",
		"before=nope": "no such image: nope:latest",
		"until=never": `invalid time "never"`,
	} {
		err := list(t.Context(), ui.Streams{Out: &bytes.Buffer{}}, &fake{}, listOptions{filters: []string{filter}, now: now})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("--filter %s: %v, want %q", filter, err, want)
		}
	}
}

type removeFunc func(refs []string) ([]storage.Removed, error)

func (f removeFunc) RemoveImage(_ context.Context, _ storage.RemoveOptions, refs ...string) ([]storage.Removed, error) {
	return f(refs)
}

func TestRemove(t *testing.T) {
	st := removeFunc(func(refs []string) ([]storage.Removed, error) {
		switch refs[0] {
		case "docker.io/library/a:latest":
			return []storage.Removed{{Untagged: "docker.io/library/a:latest"}, {Deleted: "sha256:" + idA}}, nil
		case "docker.io/library/used:latest":
			return nil, errs.New(errs.Conflict, "image used:latest is in use by container web (use -f to untag)")
		}
		return nil, errs.New(errs.NotFound, "no such image: x")
	})
	tests := []struct {
		o              removeOptions
		stdout, stderr string
		err            string
	}{
		{removeOptions{refs: []string{"nope", "a", "used"}}, "Untagged: a:latest\nDeleted: sha256:" + idA + "\n", "",
			"no such image: nope:latest\nimage used:latest is in use by container web (use -f to untag)"},
		{removeOptions{refs: []string{"nope", "a"}, force: true}, "Untagged: a:latest\nDeleted: sha256:" + idA + "\n", "Error: no such image: nope:latest\n", ""},
		{removeOptions{refs: []string{"nope"}, ignore: true}, "", "", ""},
		{removeOptions{refs: []string{" "}}, "", "", "image name cannot be blank"},
		{removeOptions{refs: []string{"BAD"}}, "", "", "invalid reference format: repository name (library/BAD) must be lowercase"},
	}
	for _, tt := range tests {
		var out, stderr bytes.Buffer
		err := remove(t.Context(), ui.Streams{Out: &out, Err: &stderr}, st, tt.o)
		if err == nil {
			err = errors.New("")
		}
		if out.String() != tt.stdout || stderr.String() != tt.stderr || err.Error() != tt.err {
			t.Errorf("%v: stdout %q, stderr %q, error %q; want %q, %q, %q", tt.o.refs, out.String(), stderr.String(), err, tt.stdout, tt.stderr, tt.err)
		}
	}
}

type tagFunc func(name string, refs []string) error

func (f tagFunc) Tag(_ context.Context, name string, refs ...string) error { return f(name, refs) }

func TestTag(t *testing.T) {
	names, err := targets([]string{"x", "quay.io/y:2"})
	if err != nil || !slices.Equal(names, []string{"docker.io/library/x:latest", "quay.io/y:2"}) {
		t.Errorf("targets: %q, %v", names, err)
	}
	for _, bad := range []string{"BAD", "x@" + dig, "x:y:z", "sha256:f00"} {
		if _, err := targets([]string{"ok", bad}); err == nil {
			t.Errorf("targets took %q", bad)
		}
	}
	var got []string
	st := tagFunc(func(name string, refs []string) error {
		got = append(got, name+"←"+refs[0])
		if refs[0] != "docker.io/library/a:latest" {
			return errs.New(errs.NotFound, "no such image")
		}
		return nil
	})
	if err := tag(t.Context(), st, "a", names); err != nil || len(got) != 2 {
		t.Errorf("tag: %v, %q", err, got)
	}
	if err := tag(t.Context(), st, "b", names); err == nil || err.Error() != "no such image: b:latest" {
		t.Error(err)
	}
}

func TestParseEnd(t *testing.T) {
	for typed, want := range map[string]end{
		"debian:12":                     {image: "debian:12"},
		"localhost/x":                   {image: "localhost/x"},
		"jane@localhost::":              {user: "jane"},
		"localhost::x:1":                {image: "x:1"},
		"jane@host.example:2222::a/b:1": {user: "jane", host: "host.example", port: "2222", image: "a/b:1"},
		"ssh://host::":                  {host: "host"},
	} {
		if got, err := parseEnd(typed); err != nil || got != want {
			t.Errorf("%s: %+v, %v", typed, got, err)
		}
	}
	for _, bad := range []string{"::x", "-oProxyCommand=x::y", "-l@host::", "a b::"} {
		if got, err := parseEnd(bad); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}
