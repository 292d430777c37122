package docker

import (
	"strings"
	"testing"
)

// Which of Docker's questions each mode answers with yes.
func TestModesAnswer(t *testing.T) {
	type asked interface{ Method(string) any }
	questions := []string{"IsHost", "IsPrivate", "IsContainer", "IsShareable", "IsNone", "IsEmpty", "IsBridge", "IsDefault", "IsUserDefined", "IsAlways", "IsOnFailure", "IsUnlessStopped"}
	for _, c := range []struct {
		mode asked
		yes  string
	}{
		{Mode(""), "IsPrivate IsEmpty"},
		{Mode("private"), "IsPrivate"},
		{Mode("host"), "IsHost"},
		{Mode("container:a"), "IsContainer"},
		{Mode("shareable"), "IsShareable"},
		{Mode("none"), "IsNone"},
		{NetworkMode("bridge"), "IsPrivate IsBridge"},
		{NetworkMode("default"), "IsPrivate IsDefault"},
		{NetworkMode("host"), "IsHost"},
		{NetworkMode("none"), "IsPrivate IsNone"},
		{NetworkMode("container:a"), "IsContainer"},
		{NetworkMode("front"), "IsPrivate IsUserDefined"},
		{RestartPolicy{Name: "no"}, "IsNone"},
		{RestartPolicy{Name: "always"}, "IsAlways"},
		{RestartPolicy{Name: "on-failure"}, "IsOnFailure"},
		{RestartPolicy{Name: "unless-stopped"}, "IsUnlessStopped"},
	} {
		var yes []string
		for _, q := range questions {
			if f, ok := c.mode.Method(q).(func() bool); ok && f() {
				yes = append(yes, q)
			}
		}
		if got := strings.Join(yes, " "); got != c.yes {
			t.Errorf("%T %v: %s; want %s", c.mode, c.mode, got, c.yes)
		}
	}
	for mode, want := range map[NetworkMode]string{"container:a": "container a ", "front": "front  front", "host": "host  "} {
		got := ""
		for _, q := range []string{"NetworkName", "ConnectedContainer", "UserDefined"} {
			got += mode.Method(q).(func() string)() + " "
		}
		if strings.TrimSuffix(got, " ") != want {
			t.Errorf("%s: %q; want %q", mode, got, want)
		}
	}
}
