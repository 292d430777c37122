package wire

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"cais.dev/cais/pkg/errs"
)

// all returns an empty message of each type.
func all() []Message {
	return []Message{
		&Create{}, &Created{}, &Start{}, &Running{}, &Exited{}, &Failed{}, &Attach{}, &Attached{},
		&Exec{}, &Resize{}, &Signal{}, &Reload{}, &Done{}, &Job{}, &Net{}, &Hold{}, &Network{},
	}
}

// fill gives every field of v a value of its own that is not zero.
func fill(v reflect.Value, n *int64) {
	*n++
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString("s" + string(rune('a'+*n%26)))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Int, reflect.Int64:
		v.SetInt(-*n)
	case reflect.Uint8, reflect.Uint16:
		v.SetUint(uint64(*n))
	default:
		panic("no value for " + v.Type().String())
	}
}

func fresh(m Message) Message { return reflect.New(reflect.TypeOf(m).Elem()).Interface().(Message) }

func TestRoundTrip(t *testing.T) {
	seen := map[Kind]bool{}
	for _, m := range all() {
		if seen[m.Kind()] {
			t.Errorf("kind %d is used twice", m.Kind())
		}
		seen[m.Kind()] = true
		var n int64
		fill(reflect.ValueOf(m).Elem(), &n)
		p := Marshal(m)
		if KindOf(p) != m.Kind() {
			t.Errorf("%T: first byte is %d, want %d", m, p[0], m.Kind())
		}
		got := fresh(m)
		if err := Unmarshal(p, got); err != nil || !reflect.DeepEqual(got, m) {
			t.Errorf("%T: got %+v, %v; want %+v", m, got, err, m)
		}
	}
}

// TestOlderAndNewerPeers: fields are added at the end, and both sides go on.
func TestOlderAndNewerPeers(t *testing.T) {
	p := Marshal(&Exited{Code: 3, OOMKilled: true, Cleanup: true})
	var m Exited
	if err := Unmarshal(p[:2+8+1], &m); err != nil || m != (Exited{Code: 3, OOMKilled: true}) {
		t.Errorf("from an older peer: %+v, %v", m, err)
	}
	if err := Unmarshal(append(slices.Clone(p), 1, 2, 3), &m); err != nil || m.Code != 3 {
		t.Errorf("from a newer peer: %+v, %v", m, err)
	}
}

func TestUnmarshalRefuses(t *testing.T) {
	good := Marshal(&Failed{Text: "no"})
	other := slices.Clone(good)
	other[1]++
	for name, tt := range map[string]struct {
		packet []byte
		kind   errs.Kind
	}{
		"empty":           {nil, errs.Internal},
		"one byte":        {good[:1], errs.Internal},
		"another message": {Marshal(&Done{}), errs.Internal},
		"another version": {other, errs.Unsupported},
		"cut in a number": {good[:5], errs.Internal},
		"cut in a string": {good[:2+1+8+4+1], errs.Internal},
		"nothing follows": {good[:2+1+8+4], errs.Internal},
	} {
		if err := Unmarshal(tt.packet, &Failed{}); errs.KindOf(err) != tt.kind {
			t.Errorf("%s: %v, want kind %v", name, err, tt.kind)
		}
	}
	// A list that promises more than the message can hold must not allocate it.
	huge := Marshal(&Job{})
	copy(huge[len(huge)-4:], []byte{0xff, 0xff, 0xff, 0x7f}) // the number of its last field, a list
	if err := Unmarshal(huge, &Job{}); err == nil {
		t.Error("a list longer than its message was accepted")
	}
}

// FuzzUnmarshal: whatever arrives, it is read or refused, and what was read
// reads the same after being written.
func FuzzUnmarshal(f *testing.F) {
	for _, m := range all() {
		var n int64
		fill(reflect.ValueOf(m).Elem(), &n)
		f.Add(Marshal(m))
		f.Add(Marshal(fresh(m)))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		for _, m := range all() {
			if m.Kind() != KindOf(p) || Unmarshal(p, m) != nil {
				continue
			}
			again := fresh(m)
			q := Marshal(m)
			if err := Unmarshal(q, again); err != nil || !bytes.Equal(q, Marshal(again)) {
				t.Errorf("%T %+v became %+v, %v", m, m, again, err)
			}
		}
	})
}
