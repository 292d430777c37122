package plainjson

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestReadsItself: a spec of the usual kind is not left to encoding/json.
func TestReadsItself(t *testing.T) {
	limit, spec := int64(64<<20), new(specs.Spec)
	text, err := Marshal(&specs.Spec{
		Version: "1.2.0", Process: &specs.Process{Args: []string{"sh", "é<\n"}, Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}}},
		Mounts: []specs.Mount{{Destination: "/proc", Options: []string{"nosuid"}}}, Annotations: map[string]string{"a": "b"},
		Linux: &specs.Linux{Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}, Seccomp: &specs.LinuxSeccomp{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := Decoder{text: string(text)}
	if rest, ok := d.value(text, reflect.ValueOf(spec).Elem(), false); !ok || len(rest) > 0 {
		t.Errorf("of %s this is left: %q, %v", text, rest, ok)
	}
}
