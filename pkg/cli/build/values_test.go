package build

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func TestOutputs(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	os.WriteFile(file, nil, 0o644)
	for _, c := range []struct {
		flags      string
		push, load bool
		tty        bool
		want       string // the outputs, or the error
	}{
		{"", false, false, false, "image"},
		{"", false, true, false, "image"},
		{"", true, false, false, "image+push"},
		{"out", false, false, false, "local=out"},
		{"-", false, false, false, "tar=-"},
		{"-", false, false, true, "refusing to write to console"},
		{"type=tar", false, false, false, "tar=-"},
		{"type=registry", false, false, false, "image+push"},
		{"type=image,push=true", false, false, false, "image+push"},
		{"type=docker", false, false, false, "image"},
		{"type=docker,dest=x.tar", false, false, false, "docker=x.tar"},
		{"type=oci,dest=x.tar", false, false, false, "oci=x.tar"},
		{"type=oci", false, false, true, "refusing to write to console"},
		{"type=local,dest=" + file, false, false, false, "is a file"},
		{"type=tar,dest=" + dir, false, false, false, "is a directory"},
		{"type=oci,tar=false,dest=" + dir, false, false, false, "oci=" + dir},
		{"type=local", false, false, false, "dest is required for local exporter"},
		{"type=local,dest=-", false, false, false, "dest cannot be stdout"},
		{"type=image,dest=x", false, false, false, "dest is not supported"},
		{"type=nope", false, false, false, `exporter "nope" could not be found`},
		{"dest=x,name=y", false, false, false, "type is required for output"},
		{"type=image,nope", false, false, false, "invalid value nope"},
		{"type=local,dest=x", true, false, false, `push and "local" output can't be used together`},
		{"type=local,dest=x", false, true, false, "local=x image"},
		{"type=image type=local,dest=x type=tar,dest=y", false, false, false, "image local=x tar=y"},
		{"- -", false, false, false, "only one output can go to stdout"},
		{`type=image,"name=a,b"`, false, false, false, "image"},
	} {
		got := ""
		all, err := outputs(strings.Fields(c.flags), c.push, c.load, c.tty)
		if err != nil {
			got = err.Error()
		}
		for _, o := range all {
			got += " " + o.Type
			if o.Dest != "" {
				got += "=" + o.Dest
			}
			if o.Flag("push", false) {
				got += "+push"
			}
		}
		if got = strings.TrimSpace(got); got != c.want && (err == nil || !strings.Contains(got, c.want)) {
			t.Errorf("%q: %s\nwant %s", c.flags, got, c.want)
		}
	}
}

func TestSecrets(t *testing.T) {
	env := func(n string) bool { return n == "HOME" }
	for flag, want := range map[string]string{
		"id=a,src=f":          "a f ",
		"id=a,source=f":       "a f ",
		"id=a":                "a a ",
		"id=HOME":             "HOME  HOME",
		"id=a,env=E":          "a  E",
		"id=a,type=env":       "a a ",
		"id=a,type=env,src=E": "a  E",
		"type=file,id=HOME":   "HOME HOME ",
		"src=f":               "secret missing ID",
		"id=a,src=f,env=E":    "both a file and a variable",
		"id=a,type=x":         `unsupported secret type "x"`,
		"id=a,nope=x":         "unexpected key 'nope'",
		"id":                  "must be a key=value pair",
	} {
		x, err := parseSecret(flag, env)
		got := x.ID + " " + x.File + " " + x.Env
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", flag, got, want)
		}
	}
}

func TestCaches(t *testing.T) {
	for flag, want := range map[string]string{
		"a/b:c":                      "registry",
		"a/b,c/d":                    "registry registry",
		"type=registry,ref=a":        "registry",
		"type=registry":              "needs ref",
		"type=local,src=x":           "local",
		"type=local,dest=x":          "requires src",
		"type=inline":                "is read by type=registry",
		"type=gha":                   "not supported",
		"type=x":                     "unknown cache type",
		"ref=a":                      "type required",
		"type=registry,ref=a,mode=x": "unsupported mode",
	} {
		list, err := parseCache(flag, false)
		got := ""
		for _, c := range list {
			got = strings.TrimSpace(got + " " + c.Type)
		}
		if err != nil {
			got = err.Error()
		}
		if got != want && (err == nil || !strings.Contains(got, want)) {
			t.Errorf("%s: %s, want %s", flag, got, want)
		}
	}
}

func TestPlatforms(t *testing.T) {
	p, err := platforms([]string{"linux/amd64,linux/arm64", "arm64", "linux/arm/v7"})
	if err != nil || len(p) != 3 || p[2].String() != "linux/arm/v7" {
		t.Error(p, err)
	}
	if _, err := platforms([]string{"what/is/this/then"}); err == nil {
		t.Error("nonsense is taken")
	}
}

func TestAnnotations(t *testing.T) {
	a, err := annotations([]string{"a=b", "index,manifest:c=d", "manifest[linux/arm64]:e=f", "manifest-descriptor:g=h"})
	if err != nil || len(a) != 5 || a[0].level != "manifest" || a[1].level != "index" || a[3].platform.Architecture != "arm64" {
		t.Error(a, err)
	}
	for _, bad := range []string{"a", "what:a=b", "index[linux/amd64]:a=b", "manifest[x:a=b", "manifest:=b"} {
		if _, err := annotations([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestHosts(t *testing.T) {
	h, err := addHosts([]string{"a:1.2.3.4", "b=::1", "c:[::2]", "d:host-gateway", "e:fe80::1"})
	if err != nil || len(h) != 5 || h[1].IP != "::1" || h[2].IP != "::2" || h[4].IP != "fe80::1" {
		t.Error(h, err)
	}
	for _, bad := range []string{"a", "a:", ":1.2.3.4", "a:what"} {
		if _, err := addHosts([]string{bad}); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestArgs(t *testing.T) {
	m := buildArgs([]string{"a=1", "HOME", "nope", "e="}, func(k string) (string, bool) { return "/h", k == "HOME" })
	data, _ := json.Marshal(m)
	if string(data) != `{"HOME":"/h","a":"1","e":""}` {
		t.Error(string(data))
	}
}

func TestNamed(t *testing.T) {
	m, err := namedContexts([]string{"Foo=dir", "alpine:3=docker-image://x", "x=a=b", "p=container-image://y", "q=docker://y"})
	if err != nil || m["foo"] != "dir" || m["x"] != "a=b" || m["alpine:3"] == "" || m["p"] != "docker-image://y" || m["q"] != m["p"] {
		t.Error(m, err)
	}
	if _, err := namedContexts([]string{"x"}); err == nil {
		t.Error("a name alone is taken")
	}
}

// Every flag of the others is refused or has its reason; none is taken silently
// that asks for something.
func TestOthers(t *testing.T) {
	for _, c := range []struct{ args, err string }{
		{"--compress", ""},
		{"--rm --force-rm --rm=false", ""},
		{"--transient-mount /a:/b", "--transient-mount is not supported by build"},
		{"--builder default --disable-content-trust", ""},
		{"--disable-content-trust=false", "--disable-content-trust is not supported by build"},
		{"-D", ""},
	} {
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		var o options
		o.define(f)
		if err := f.Parse(strings.Fields(c.args)); err != nil {
			t.Errorf("%s: %v", c.args, err)
			continue
		}
		err := usedOthers(f)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func FuzzValues(f *testing.F) {
	f.Add("type=image,name=a")
	f.Add(`"id=a`)
	f.Fuzz(func(t *testing.T, s string) {
		parseOutput(s)
		parseCache(s, true)
		parseSecret(s, func(string) bool { return true })
		annotations([]string{s})
		namedContexts([]string{s})
		addHosts([]string{s})
		platforms([]string{s})
	})
}
