package volume

import (
	"testing"
	"time"

	"cais.dev/cais/pkg/volume"
)

func TestFilters(t *testing.T) {
	v := &volume.Volume{
		Name: "data", Driver: "local", Labels: map[string]string{"a": "b"}, Options: map[string]string{"type": "tmpfs"},
		Created: time.Now().Add(-time.Hour),
	}
	for text, want := range map[string]bool{
		"name=at": true, "name=^x": false, "label=a": true, "label=a=c": false, "label!=a": false, "label!=z": true,
		"driver=local": true, "driver=x": false, "dangling=true": true, "dangling=0": false, "anonymous=true": false,
		"since=2h": true, "until=30m": true, "until=2h": false, "opt=type": true, "scope=local": true,
	} {
		f, err := parseFilters("", []string{text}, listKeys[:]...)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		f.used = func(string) bool { return false }
		if f.match(v) != want {
			t.Errorf("%s: not %v", text, want)
		}
	}
	for _, bad := range []string{"bogus=1", "dangling=maybe", "name", "until=never"} {
		if _, err := parseFilters("", []string{bad}, listKeys[:]...); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	if _, err := pruneFilters([]string{"name=x"}); err == nil {
		t.Error("prune knows no names")
	}
}
