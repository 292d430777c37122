package golden

import "testing"

func TestDiff(t *testing.T) {
	got := Diff("a\nb\nc\nd\n", "a\nb\nx\nd\n")
	want := "  a\n  b\n- c\n+ x\n"
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
