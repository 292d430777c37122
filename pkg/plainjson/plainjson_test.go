package plainjson_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"reflect"
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

// read is what files are made of; the rest of all is encoding/json's, as a whole.
type read struct {
	S, T   string
	B      bool `json:"b"`
	I      int8 `json:",omitempty"`
	U      uint64
	F      float64 `json:"f,omitempty"`
	P      *int
	L      []string
	M      map[text]read
	Any    any
	Bytes  []byte
	Raw    json.RawMessage
	Time   time.Time
	Points []*talks
	Dash   int `json:"-"`
}

// FuzzUnmarshal: whatever it is given, it returns what encoding/json returns.
func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{
		`{"S":"a","T":"\u00e9\n","b":true,"I":-7,"U":18446744073709551615,"f":1e3,"P":null,"L":["x",""],"M":{"k":{"S":"b"}},"Any":[{}],` +
			`"Bytes":"AA==","Raw":{"r":[1,"]"]},"Time":"2026-01-02T03:04:05.000000006Z","Points":[null,{"A":1,"B":2}]}`,
		`{"P":0,"M":{"k":{},"k":{"S":"b"}},"Any":null,"Raw":null,"Points":[]}`, `{}`, ` {"S" : "a"}`, `{"T":"","S":"order"}`, `{"s":"letters"}`,
		`{"S":"a","S":"twice"}`, `{"S":null,"L":null,"M":null,"Time":null}`, `{"I":128}`, `{"U":-1}`, `{"U":01}`, `{"I":1.0}`, `{"S":"\ud83d"}`,
		"{\"S\":\"\xff\"}", "{\"S\":\"\t\"}", `{"unknown":[1,{"a":2}],"S":"b"}`, `{"S":"a"}x`, `{"S":"a",}`, `{"L":["a",]}`, `[]`, `null`, ``,
		`{"Dash":1}`, `{"Any":tru,"S":"a"}`, `{"Raw":"\","Any":1}`, `{"Time":"x"}`, `{"Points":[{"A":1},{"B":2,"A":1}]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var got, want read
		wantErr := json.Unmarshal(p, &want)
		err := plainjson.Unmarshal(p, &got)
		if fmt.Sprint(err) != fmt.Sprint(wantErr) || !reflect.DeepEqual(got, want) {
			t.Errorf("%q:\n%+v, %v\nwant\n%+v, %v", p, got, err, want, wantErr)
		}
	})
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

// fillAll gives every field that v reaches a value.
func fillAll(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fillAll(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fillAll(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fillAll(v.Index(0))
		fillAll(v.Index(1))
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fillAll(key)
		fillAll(value)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Interface:
		v.Set(reflect.ValueOf("y"))
	case reflect.Float64:
		v.SetFloat(1.5)
	default:
		if v.CanInt() {
			v.SetInt(7)
		} else {
			v.SetUint(7)
		}
	}
}

// TestSpec: what is written reads back, field by field.
func TestSpec(t *testing.T) {
	full := new(specs.Spec)
	fillAll(reflect.ValueOf(full).Elem())
	for name, spec := range map[string]*specs.Spec{
		"full": full, "empty": {}, "bare": {Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}},
	} {
		text, err := plainjson.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		back := new(specs.Spec)
		if err := plainjson.Unmarshal(text, back); err != nil || !reflect.DeepEqual(back, spec) {
			t.Errorf("%s: read back: %+v, %v", name, back, err)
		}
	}
}
