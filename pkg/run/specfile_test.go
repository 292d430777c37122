package run

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"cais.dev/cais/pkg/plainjson"
)

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

// TestSpecFile: what is written reads back, field by field, as it does with
// encoding/json alone.
func TestSpecFile(t *testing.T) {
	full := new(specs.Spec)
	fillAll(reflect.ValueOf(full).Elem())
	for name, spec := range map[string]*specs.Spec{
		"full": full, "empty": {}, "bare": {Process: &specs.Process{Cwd: "/"}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}},
	} {
		ours, err := plainjson.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		plain, err := json.Marshal(spec)
		if err != nil || string(plain) != string(ours) {
			t.Fatalf("%s: %v\n%s\nnot\n%s", name, err, ours, plain)
		}
		back, err := decodeSpec(ours)
		if err != nil || !reflect.DeepEqual(back, spec) {
			t.Errorf("%s: read back: %+v, %v", name, back, err)
		}
	}
}
