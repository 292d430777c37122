package cdi

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/test/golden"
)

// nvidia is what nvidia-ctk cdi generate writes, shortened.
const nvidia = `---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
    - name: "0"
      containerEdits:
        deviceNodes:
            - path: /dev/nvidia0
              fileMode: 438
              permissions: rw
            - path: /dev/dri/card1   # the display
              hostPath: /dev/dri/card0
        hooks:
            - hookName: createContainer
              path: /usr/bin/nvidia-cdi-hook
              args:
                - nvidia-cdi-hook
                - create-symlinks
                - --link
                - ../card1::/dev/dri/by-path/pci-0000:01:00.0-card
    - name: all
      containerEdits:
        deviceNodes:
        - path: /dev/nvidia0
containerEdits:
    env:
        - NVIDIA_VISIBLE_DEVICES=void
    deviceNodes: []
    mounts:
        - hostPath: /usr/lib/libcuda.so
          containerPath: '/usr/lib/it''s'
          options:
            - ro
            - nosuid
    additionalGids: 
        - 44
`

func write(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestFind(t *testing.T) {
	first := write(t, map[string]string{"nvidia.yaml": nvidia, "broken.json": "{", "not.txt": "x"})
	later := write(t, map[string]string{"v.json": `{"cdiVersion":"1.0.0","kind":"v.com/c","devices":[{"name":"x","containerEdits":{"env":["A=later"]}}]}`})
	e, err := Find([]string{first, "/nowhere", later}, []string{"nvidia.com/gpu=0", "nvidia.com/gpu=all", "v.com/c=x"})
	if err != nil {
		t.Fatal(err)
	}
	golden.JSON(t, "testdata/edits.json", e)
	if e, err := Find([]string{"/nowhere"}, nil); err != nil || !reflect.DeepEqual(e, plan.Edits{}) {
		t.Errorf("no name: %+v, %v", e, err)
	}
}

func TestFindFails(t *testing.T) {
	bad := func(edits string) string {
		return `{"kind":"v.com/c","devices":[{"name":"x","containerEdits":` + edits + `}]}`
	}
	for _, tt := range []struct{ name, text, ask, want, hint string }{
		{"no file", "{", "v.com/c=x", "no CDI file describes the device v.com/c=x", "vendor"},
		{"why not", "{", "v.com/c=x", "f.json: unexpected end", "vendor"},
		{"nvidia", "{}", "nvidia.com/gpu=all", "no CDI file describes", "nvidia-ctk cdi generate"},
		{"other name", bad("{}"), "v.com/c=y", "describes the device v.com/c=y", "There are v.com/c=x."},
		{"rdt", bad(`{"intelRdt":{}}`), "v.com/c=x", "intelRdt", ""},
		{"hook", bad(`{"hooks":[{"hookName":"sometimes","path":"/x"}]}`), "v.com/c=x", `the kind "sometimes"`, ""},
		{"node", bad(`{"deviceNodes":[{"path":"dev/x"}]}`), "v.com/c=x", "device node", ""},
		{"mount", bad(`{"mounts":[{"hostPath":"/x"}]}`), "v.com/c=x", "mount", ""},
	} {
		_, err := Find([]string{write(t, map[string]string{"f.json": tt.text})}, []string{tt.ask})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(errs.HintOf(err), tt.hint) {
			t.Errorf("%s: %v, hint %q; want %q, %q", tt.name, err, errs.HintOf(err), tt.want, tt.hint)
		}
	}
}

func TestYAML(t *testing.T) {
	for text, want := range map[string]string{
		"a: 0x10\nb: true\nc: ~\nd: \"q\\tr\"":          `{"a":16,"b":true,"c":null,"d":"q\tr"}`,
		"a:\n  - x: 1\n    y: [z]\n  - w\nb: |\n  text": `{"a":[{"x":1,"y":["z"]},"w"],"b":"text"}`,
		"a: *b": "", "a: 1\na: 2": "", "a: 'x": "", "1: x": "",
		"# only\n---\n": `null`,
		"a:\n\tb: 1":    "", "a: 'x'y'": "", "a: '": "",
		"a: # none\nb: # a list\n- x # one\n- # nothing\nc: ''": `{"a":null,"b":["x",null],"c":""}`,
	} {
		got, err := toJSON([]byte(text))
		if want == "" && err == nil || want != "" && string(got) != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
}
