package dns

import (
	"reflect"
	"testing"
)

func TestConfig(t *testing.T) {
	c := Config{
		Dir: "/d", Resolv: "/r", Networks: []Network{{"1", "a"}, {"2", "b"}}, Links: []Link{{"x", "y"}},
		Servers: [][]byte{{1, 2, 3, 4}}, NoForward: true, NoSingle: true,
	}
	b := c.Marshal()
	got, ok := Unmarshal(b)
	if !ok || !reflect.DeepEqual(got, c) {
		t.Errorf("%v %+v", ok, got)
	}
	for n := range b[:len(b)-1] {
		if _, ok := Unmarshal(b[:n]); ok {
			t.Errorf("cut at %d it is read", n)
		}
	}
}
