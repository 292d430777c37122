package commit

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/oci"
)

func TestChange(t *testing.T) {
	base := oci.Config{Env: []string{"PATH=/bin", "A=1"}, Cmd: []string{"old"}, Labels: map[string]string{"k": "v"}, OnBuild: []string{"RUN x"}}
	p := oci.Platform{OS: "linux", Architecture: "amd64"}
	got, err := Change(t.Context(), base, p, []string{`CMD ["a","b"]`, "ENV A=2 B=$A", "label x=y", "EXPOSE 80 90/udp", "USER=me", "VOLUME /data", "WORKDIR /w", "ONBUILD RUN y", "STOPSIGNAL SIGQUIT"})
	if err != nil {
		t.Fatal(err)
	}
	want := oci.Config{
		Env: []string{"PATH=/bin", "A=2", "B=1"}, Cmd: []string{"a", "b"}, Labels: map[string]string{"k": "v", "x": "y"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "90/udp": {}}, User: "me", Volumes: map[string]struct{}{"/data": {}},
		WorkingDir: "/w", OnBuild: []string{"RUN x", "RUN y"}, StopSignal: "SIGQUIT", ArgsEscaped: got.ArgsEscaped,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	for line, text := range map[string]string{"RUN true": "run is not", "COPY a b": "copy is not", "FROM x": "from is not", "": "is not a valid", "ENV A=1\nRUN x": "more than one line", "CMD": ""} {
		_, err := Change(t.Context(), base, p, []string{line})
		if line == "CMD" {
			continue // Docker takes it
		}
		if errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// The new image has what its base had and one more layer, and both documents
// agree.
func TestDocuments(t *testing.T) {
	diff := oci.Digest([]byte("new"))
	old := oci.Digest([]byte("old"))
	config, _ := json.Marshal(oci.Image{Platform: oci.Platform{OS: "linux", Architecture: "arm64"}, RootFS: oci.RootFS{Type: "layers", DiffIDs: []string{old}}, History: []oci.History{{CreatedBy: "x"}}})
	manifest, _ := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": oci.TypeDockerManifest, "config": oci.Descriptor{Digest: oci.Digest(config), Size: 1},
		"layers": []oci.Descriptor{{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: oci.Digest([]byte("blob")), Size: 4}},
	})
	for _, c := range []struct {
		req   Request
		kind  string
		types []string
	}{
		{Request{Base: &Base{Config: config, Manifest: manifest}}, oci.TypeDockerManifest, []string{"application/vnd.docker.image.rootfs.diff.tar.gzip", "application/vnd.docker.image.rootfs.diff.tar"}},
		{Request{Base: &Base{Config: config, Manifest: manifest}, OCI: true}, oci.TypeOCIManifest, []string{"application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.layer.v1.tar"}},
		{Request{Base: &Base{Config: config}}, oci.TypeOCIManifest, []string{"application/vnd.oci.image.layer.v1.tar", "application/vnd.oci.image.layer.v1.tar"}},
		{Request{Platform: oci.Platform{OS: "linux", Architecture: "arm64"}}, oci.TypeDockerManifest, []string{"application/vnd.docker.image.rootfs.diff.tar"}},
	} {
		c.req.Created, c.req.Message = time.Unix(1, 0).UTC(), "m"
		gotConfig, gotManifest, err := documents(c.req, diff, 7)
		if err != nil {
			t.Fatal(err)
		}
		m, _, err := oci.ParseManifest(gotManifest, "")
		if err != nil || m.MediaType != c.kind || m.Config.Digest != oci.Digest(gotConfig) || len(m.Layers) != len(c.types) {
			t.Fatalf("%s, %v", gotManifest, err)
		}
		img, err := oci.ParseImage(gotConfig)
		if err != nil || img.Architecture != "arm64" || len(img.RootFS.DiffIDs) != len(m.Layers) || img.RootFS.DiffIDs[len(m.Layers)-1] != diff || img.Comment != "m" {
			t.Errorf("%s, %v", gotConfig, err)
		}
		for i, l := range m.Layers {
			if l.MediaType != c.types[i] {
				t.Errorf("layer %d is %s", i, l.MediaType)
			}
		}
	}
}
