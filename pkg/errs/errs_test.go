package errs

import (
	"errors"
	"fmt"
	"io"
	"testing"
)

func TestKindAndHintThroughWrapping(t *testing.T) {
	err := fmt.Errorf("outer: %w", WithHint(E("pull x", Denied, io.EOF), "Log in first."))
	if got := KindOf(err); got != Denied {
		t.Errorf("KindOf = %v, want Denied", got)
	}
	if got := HintOf(err); got != "Log in first." {
		t.Errorf("HintOf = %q", got)
	}
	if got, want := err.Error(), "outer: pull x: EOF"; got != want {
		t.Errorf("Error() = %q, want %q", got, want)
	}
	if !errors.Is(err, io.EOF) {
		t.Error("the cause is lost")
	}
	if KindOf(nil) != None || KindOf(io.EOF) != Internal || HintOf(io.EOF) != "" {
		t.Error("nil and foreign errors are misjudged")
	}
}
