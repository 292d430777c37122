package plainjson_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"testing"
	"time"
	"unicode"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/plainjson"
)

type text string

func (t text) MarshalText() ([]byte, error) { return []byte("text " + string(t)), nil }

type pointed struct{ A int }

func (p *pointed) MarshalJSON() ([]byte, error) { return []byte(`"pointed"`), nil }

type talks struct{ A, B int }

func (*talks) String() string { return "talks" }

type inner struct{ Hidden, Shown int }

type all struct {
	S, T    string
	B       bool `json:"b"`
	I       int8 `json:",omitempty"`
	U       uint64
	F       float64 `json:"f,omitempty"`
	P, Q    *int    `json:",omitempty"`
	N       *int
	L       []string
	E       []int `json:"e,omitempty"`
	A       [2]bool
	M       map[string]any
	K       map[int]string
	Bytes   []byte
	Raw     json.RawMessage
	Time    time.Time
	Zero    time.Time `json:",omitzero"`
	Mode    os.FileMode
	Text    text
	Texts   map[text]int
	Pointed pointed
	Talks   talks
	Points  []*pointed
	Any     any
	Dur     time.Duration
	Dash    int `json:"-"`
	//lint:ignore SA5008 what encoding/json makes of it is the question
	Comma   int `json:"-,"`
	Str     int `json:"str,string"`
	private int
	Inner   struct {
		inner
		Hidden string
	}
	Empty struct{} `json:"empty,omitempty"`
}

func TestLikeEncodingJSON(t *testing.T) {
	n := 0
	full := &all{
		S: "plain", T: "a \"b\" \\ <c> & \n é \u2028 \x7f \xff", B: true, I: -3, U: math.MaxUint64, F: 1e21, P: &n,
		L: []string{}, A: [2]bool{true}, M: map[string]any{"z": 1, "a<": []any{nil, "x"}, "m": map[string]any{}},
		K: map[int]string{2: "b", 1: "a"}, Bytes: []byte("bytes"), Raw: json.RawMessage(`{"r": [1]}`), Time: time.Unix(5, 7).UTC(),
		Mode: os.ModeDir | 0o755, Text: "t", Texts: map[text]int{"k": 1}, Points: []*pointed{nil, {}}, Any: &pointed{}, Dur: time.Second, private: 1,
	}
	full.Inner.Shown = 4
	raw := json.RawMessage("nothing of it")
	for name, v := range map[string]any{
		"nil": nil, "empty": &all{}, "full": full, "value": *full, "list": []all{*full}, "string": "x", "map": map[string]pointed{"a": {}},
		"bad": &raw, "spec": specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{
			BlockIO: &specs.LinuxBlockIO{ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{{Rate: 3}}},
		}}},
	} {
		if a, ok := v.(*all); ok && a.Raw == nil {
			a.Raw = json.RawMessage("null")
		}
		want, wantErr := json.Marshal(v)
		got, err := plainjson.Marshal(v)
		if (err == nil) != (wantErr == nil) || err == nil && string(got) != string(want) {
			t.Errorf("%s:\n%s, %v\nwant\n%s, %v", name, got, err, want, wantErr)
		}
	}
}

func FuzzString(f *testing.F) {
	f.Add("plain")
	f.Add("<\x00\xff\u2029>")
	f.Fuzz(func(t *testing.T, s string) {
		want, _ := json.Marshal(s)
		if got, err := plainjson.Marshal(s); err != nil || string(got) != string(want) {
			t.Errorf("%q: %s, %v; want %s", s, got, err, want)
		}
	})
}

// FuzzUnquote: what Unquote takes, encoding/json reads alike.
func FuzzUnquote(f *testing.F) {
	for _, s := range []string{`a\u0009\"\ufffd\b\f\r\n\t\/\\"rest`, `\ud83d\ude00"`, "\xff\"", `\`, `\"`, `\u12"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		text, rest, ok := plainjson.Unquote(p, []byte("x"))
		if !ok {
			return
		}
		whole := append([]byte{'"'}, p[:len(p)-len(rest)]...)
		if bytes.ContainsFunc(whole, unicode.IsControl) {
			return
		}
		var want string
		if err := json.Unmarshal(whole, &want); err != nil || string(text) != "x"+want {
			t.Errorf("%q: %q; want %q, %v", whole, text, want, err)
		}
	})
}
