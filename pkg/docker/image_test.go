package docker

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/oci"
)

const d1, d2 = "sha256:1111111111111111111111111111111111111111111111111111111111111111", "sha256:2222222222222222222222222222222222222222222222222222222222222222"

func TestNewImage(t *testing.T) {
	img := NewImage(ImageFacts{
		ID:    "abc",
		Names: []string{"docker.io/library/a:1", "docker.io/library/a@" + d1},
		Size:  5, Driver: "overlay", Lower: []string{"/s/overlay/top/diff", "/s/overlay/base/diff"},
		Config: oci.Image{
			Created: time.Date(2026, 11, 21, 7, 2, 18, 5, time.UTC), Platform: oci.Platform{OS: "linux", Architecture: "amd64"},
			Config: oci.Config{Cmd: []string{"sh"}}, RootFS: oci.RootFS{Type: "layers", DiffIDs: []string{d1, d2}},
			History: []oci.History{{Comment: "first"}, {Comment: "buildkit"}},
		},
	})
	data, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"Id":"sha256:abc"`, `"RepoTags":["a:1"]`, `"RepoDigests":["a@` + d1 + `"]`, `"Created":"2026-11-21T07:02:18.000000005Z"`,
		`"Comment":"buildkit"`, `"Config":{"User":"","ExposedPorts":null,"Env":null,"Cmd":["sh"],`, `"Labels":null`, `"Entrypoint":null`,
		`"Architecture":"amd64"`, `"Os":"linux"`, `"Size":5,"VirtualSize":5`, `"LastTagTime":"0001-01-01T00:00:00Z"`,
		`"GraphDriver":{"Name":"overlay","Data":{"LowerDir":"/s/overlay/base/diff","MergedDir":"/s/overlay/top/merged","UpperDir":"/s/overlay/top/diff","WorkDir":"/s/overlay/top/work"}}`,
		`"RootFS":{"Type":"layers","Layers":["` + d1 + `","` + d2 + `"]}`,
	} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in %s", want, data)
		}
	}
	if data, _ := json.Marshal(NewImage(ImageFacts{})); !strings.Contains(string(data), `"RepoTags":[],"RepoDigests":[]`) {
		t.Errorf("empty lists must not be null: %s", data)
	}
}
