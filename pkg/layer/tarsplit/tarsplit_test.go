package tarsplit

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

func TestLines(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	w.Segment([]byte("header"))
	w.File("a \"name\"", 5, 5, 0x0102030405060708)
	w.Segment(nil)
	w.File("empty\xff", 0, 0, 0)
	if err := w.Flush(); err != nil || w.Useless() {
		t.Fatal(err, w.Useless())
	}
	type line struct {
		Type     int
		Name     string
		NameRaw  []byte `json:"name_raw"`
		Size     int64
		Payload  []byte
		Position int
	}
	want := []line{
		{Type: 2, Payload: []byte("header")},
		{Type: 1, Name: "a \"name\"", Size: 5, Payload: []byte{1, 2, 3, 4, 5, 6, 7, 8}, Position: 1},
		{Type: 1, NameRaw: []byte("empty\xff"), Position: 2},
	}
	for i, text := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		var got line
		if err := json.Unmarshal([]byte(text), &got); err != nil || i >= len(want) {
			t.Fatalf("line %d: %s: %v", i, text, err)
		}
		w := want[i]
		if got.Type != w.Type || got.Name != w.Name || !bytes.Equal(got.NameRaw, w.NameRaw) || got.Size != w.Size || !bytes.Equal(got.Payload, w.Payload) || got.Position != w.Position {
			t.Errorf("line %d is %+v, want %+v", i, got, w)
		}
	}
	w.File("./a \"name\"", 0, 0, 0)
	if !w.Useless() {
		t.Error("a path that comes twice is accepted")
	}
}
