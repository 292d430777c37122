package export

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"cais.dev/cais/pkg/build"
	"cais.dev/cais/pkg/oci"
)

func digest(c string) string { return "sha256:" + strings.Repeat(c, 64) }

func TestCacheConfig(t *testing.T) {
	key := strings.Repeat("0f", 32)
	records := []build.CacheRecord{
		{Keys: []string{key}, Parent: -1, Base: []string{digest("a")}, DiffID: digest("b"), Size: 5, Text: "RUN x"},
		{Keys: []string{key, key}, Parent: 0, Base: []string{digest("a")}, DiffID: digest("c"), Size: 6},
	}
	blobs := []oci.Descriptor{{MediaType: "x", Digest: digest("d"), Size: 7}, {MediaType: "x", Digest: digest("e"), Size: 8}}
	data, err := EncodeCache(records, blobs)
	if err != nil {
		t.Fatal(err)
	}
	got, where, err := DecodeCache(data)
	if err != nil || !reflect.DeepEqual(got, records) || where[digest("c")].Digest != digest("e") {
		t.Errorf("%+v %+v %v", got, where, err)
	}
	// What BuildKit makes is read, and has nothing for us.
	got, _, err = DecodeCache([]byte(`{"layers":[{"blob":"` + digest("a") + `","parent":-1}],"records":[{"digest":"x","layers":[{"layer":0}]}]}`))
	if err != nil || got != nil {
		t.Error(got, err)
	}
	for _, bad := range []string{
		`{`, `{"dev.cais":{"version":1,"steps":[{"keys":["../../x"],"parent":-1,"diffID":"` + digest("a") + `"}]}}`,
		`{"dev.cais":{"version":1,"steps":[{"keys":["` + key + `"],"parent":0,"diffID":"` + digest("a") + `"}]}}`,
		`{"dev.cais":{"version":1,"steps":[{"keys":["` + key + `"],"parent":-1,"diffID":"sha256:../x"}]}}`,
	} {
		if _, _, err := DecodeCache([]byte(bad)); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func FuzzDecodeCache(f *testing.F) {
	f.Add([]byte(`{"dev.cais":{"version":1,"steps":[{"keys":["a"],"parent":-1}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		records, _, err := DecodeCache(data)
		if err != nil {
			return
		}
		for i, r := range records {
			if r.Parent >= i || len(r.Keys) == 0 {
				t.Errorf("%+v", r)
			}
		}
	})
}

func TestInline(t *testing.T) {
	want := []build.CacheRecord{{
		Keys: []string{strings.Repeat("a", 64)}, Parent: -1, DiffID: "sha256:" + strings.Repeat("b", 64), Size: 3, Text: "RUN x",
	}}
	value, err := EncodeInline(want)
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{"os": "linux", build.InlineKey: value})
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeInline(config)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	for config, fails := range map[string]bool{
		`{}`:                                false,
		`{"moby.buildkit.cache.v0":"e30="}`: false, // {}: BuildKit's own
		`{"moby.buildkit.cache.v0":"eA=="}`: true,
		`{"moby.buildkit.cache.v0":3}`:      true,
		`[`:                                 true,
	} {
		if got, err := DecodeInline([]byte(config)); got != nil || (err != nil) != fails {
			t.Errorf("%s: %v, %v", config, got, err)
		}
	}
}
