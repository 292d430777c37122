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
		{"image", "annotation-manifest[no/such/thing/at-all].a", "c", "invalid annotation key"},
		{"local", "annotation.a", "c", "unknown key"},
		{"image", "compression-level", "0", "gzip has 1 to 9"},
		{"image", "oci-artifact", "", "oci-artifact of an output is not supported"},
		{"image", "oci-artifact", "false", ""},
		{"image", "buildinfo", "true", "not supported"},
		{"image", "attestation-inline", "true", "not supported"},
		{"tar", "attestation-prefix", "x", "not supported"},
		{"docker", "context", "other", "not supported"},
		{"image", "dangling-name-prefix", "x", "not supported"},
		{"image", "name-canonical", "true", ""},
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

// No key of a cache is taken that has no effect.
func TestCheckCache(t *testing.T) {
	for _, c := range []struct {
		kind, key, value string
		to               bool
		err              string
	}{
		{"registry", "mode", "max", true, ""},
		{"registry", "mode", "all", true, "unsupported mode"},
		{"registry", "mode", "max", false, ""},
		{"registry", "compression", "uncompressed", true, ""},
		{"registry", "compression", "lz4", true, "unsupported layer compression"},
		{"registry", "compression", "zstd", false, `unknown key "compression" of a cache of type registry`},
		{"registry", "ignore-error", "1", true, ""},
		{"registry", "image-manifest", "true", true, ""},
		{"registry", "image-manifest", "false", true, "not supported"},
		{"registry", "oci-mediatypes", "false", true, "not supported"},
		{"registry", "registry.insecure", "true", false, ""},
		{"local", "tag", "x", true, "unknown key"},
		{"local", "digest", "sha256:x", false, ""},
		{"inline", "mode", "max", true, "unknown key"},
	} {
		err := CacheSpec{Type: c.kind, Attrs: map[string]string{c.key: c.value}}.Check(c.to)
		if (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func FuzzAnnotationKey(f *testing.F) {
	f.Add("annotation-manifest[linux/amd64].a")
	f.Fuzz(func(t *testing.T, s string) { parseAnnotationKey(s) })
}
