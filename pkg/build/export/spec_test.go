package export

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		kind, key, value, err string
	}{
		{"image", "push", "", ""},
		{"image", "push", "maybe", "non-bool value"},
		{"image", "tar", "true", `unknown key "tar"`},
		{"oci", "tar", "false", ""},
		{"image", "compression", "zstd", ""},
		{"image", "compression", "lz4", "unsupported layer compression"},
		{"image", "compression", "estargz", "not supported"},
		{"image", "compression-level", "x", "non-int"},
		{"local", "mode", "delete", ""},
		{"local", "mode", "move", "invalid mode"},
		{"tar", "mode", "copy", "unknown key"},
		{"image", "annotation.a.b", "c", ""},
		{"image", "annotation-index.a", "c", ""},
		{"image", "annotation-manifest[linux/amd64].a", "c", ""},
		{"image", "annotation-what.a", "c", "invalid annotation key"},
		{"image", "annotation", "c", "invalid annotation key"},
		{"image", "annotation-manifest[linux.a", "c", "invalid annotation key"},
		{"local", "annotation.a", "c", "unknown key"},
	} {
		err := Spec{Type: c.kind, Attrs: map[string]string{c.key: c.value}}.Check()
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	s := Spec{Type: "image", Attrs: map[string]string{"push": "", "name": "a, b,"}}
	if !s.Flag("push", false) || !s.Flag("x", true) || len(s.Names()) != 2 {
		t.Error("flags or names", s.Names())
	}
}

func FuzzAnnotationKey(f *testing.F) {
	f.Add("annotation-manifest[linux/amd64].a")
	f.Fuzz(func(t *testing.T, s string) { parseAnnotationKey(s) })
}
