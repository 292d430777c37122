package oci

import (
	"fmt"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

const (
	descA    = `{"mediaType":"x","digest":"` + digestA + `","size":3}`
	manifest = `{"schemaVersion":2,"config":` + descA + `,"layers":[` + descA + `]}`
	index    = `{"schemaVersion":2,"manifests":[` + descA + `]}`
)

func TestParseManifest(t *testing.T) {
	withType := func(typ, doc string) string {
		return strings.Replace(doc, "{", `{"mediaType":"`+typ+`",`, 1)
	}
	tests := []struct {
		name, raw, typ string
		is             string // the type of the result
		kind           errs.Kind
		text           string
	}{
		{name: "manifest", raw: manifest, typ: TypeOCIManifest, is: TypeOCIManifest},
		{name: "with parameters", raw: manifest, typ: TypeDockerManifest + "; charset=utf-8", is: TypeDockerManifest},
		{name: "index", raw: index, typ: TypeDockerIndex, is: TypeDockerIndex},
		{name: "no type at all", raw: manifest, is: TypeOCIManifest},
		{name: "no type at all, index", raw: index, is: TypeOCIIndex},
		{name: "general type", raw: withType(TypeDockerManifest, manifest), typ: "application/json", is: TypeDockerManifest},
		{name: "other type", raw: withType("x/y", manifest), typ: "x/z", kind: errs.Unsupported, text: "unknown type"},
		{name: "both", raw: `{"schemaVersion":2,"config":` + descA + `,"layers":[],"manifests":[]}`, kind: errs.Invalid, text: "both manifests and layers"},
		{name: "sent as the other", raw: index, typ: TypeOCIManifest, kind: errs.Invalid, text: "ambiguous"},
		{name: "says the other", raw: withType(TypeOCIIndex, index), typ: TypeOCIManifest, kind: errs.Invalid, text: "ambiguous"},
		{name: "schema 1", raw: `{"schemaVersion":1,"fsLayers":[]}`, kind: errs.Unsupported, text: "schema 1"},
		{name: "schema 1 by type", raw: manifest, typ: TypeSchema1Signed, kind: errs.Unsupported, text: "schema 1"},
		{name: "schema 3", raw: `{"schemaVersion":3}`, kind: errs.Invalid, text: "schema version 3"},
		{name: "not JSON", raw: `<html>`, kind: errs.Invalid, text: "not JSON"},
		{name: "digest with a path", raw: strings.ReplaceAll(manifest, "sha256:", "sha256:../"), kind: errs.Invalid, text: "digest"},
		{name: "negative size", raw: strings.ReplaceAll(manifest, `"size":3`, `"size":-3`), kind: errs.Invalid, text: "negative"},
		{name: "huge config", raw: strings.Replace(manifest, `"size":3`, `"size":16777217`, 1), kind: errs.Invalid, text: "config is larger"},
		{name: "huge entry", raw: strings.Replace(index, `"size":3`, `"size":4194305`, 1), kind: errs.Invalid, text: "larger"},
		{name: "too many layers", raw: fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s%s]}`, descA, strings.Repeat(descA+",", 500), descA),
			kind: errs.Invalid, text: "501 layers"},
		{name: "too large", raw: manifest + strings.Repeat(" ", MaxManifest), kind: errs.Invalid, text: "larger than"},
		{name: "no config", raw: `{"schemaVersion":2,"layers":[]}`, kind: errs.Invalid, text: "config"},
	}
	for _, tt := range tests {
		m, x, err := ParseManifest([]byte(tt.raw), tt.typ)
		if errs.KindOf(err) != tt.kind || err != nil && !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: error %v; want kind %v, text %q", tt.name, err, tt.kind, tt.text)
			continue
		}
		if err != nil {
			continue
		}
		var is string
		switch {
		case m != nil && x == nil:
			is = m.MediaType
		case x != nil && m == nil:
			is = x.MediaType
		}
		if is != tt.is {
			t.Errorf("%s: got %q, want %q", tt.name, is, tt.is)
		}
	}
}

func TestParseImage(t *testing.T) {
	img, err := ParseImage([]byte(`{"architecture":"arm64","os":"linux","created":"",
		"config":{"Cmd":["sh"],"Env":["A=b"]},"rootfs":{"type":"layers","diff_ids":["` + digestA + `"]},
		"history":[{"created":"2024-05-06T07:08:09.5Z","created_by":"x"},{"created":null,"empty_layer":true}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if img.Platform.String() != "linux/arm64" || len(img.RootFS.DiffIDs) != 1 || img.Config.Cmd[0] != "sh" || !img.Created.IsZero() {
		t.Errorf("got %+v", img)
	}
	if len(img.History) != 2 || img.History[0].Created.Year() != 2024 || !img.History[1].EmptyLayer {
		t.Errorf("history: got %+v", img.History)
	}
	for _, raw := range []string{`[]`, `{`, `{"rootfs":{"diff_ids":["sha256:x"]}}`} {
		if _, err := ParseImage([]byte(raw)); errs.KindOf(err) != errs.Invalid {
			t.Errorf("ParseImage(%s): %v, want Invalid", raw, err)
		}
	}
}
