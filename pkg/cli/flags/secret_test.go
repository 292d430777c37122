package flags

import (
	"reflect"
	"testing"

	"cais.dev/cais/pkg/run/plan"
)

func TestParseSecrets(t *testing.T) {
	for text, want := range map[string]plan.Secret{
		"one":                       {Name: "one", Target: "/run/secrets/one", Mode: 0o444},
		"source=one,target=a/b":     {Name: "one", Target: "/run/secrets/a/b", Mode: 0o444},
		"one,target=/etc/x,uid=1":   {Name: "one", Target: "/etc/x", UID: 1, Mode: 0o444},
		"one,type=mount,mode=0400":  {Name: "one", Target: "/run/secrets/one", Mode: 0o400},
		"one,type=env":              {Name: "one", Env: true, Target: "one", Mode: 0o444},
		"one,type=env,target=OTHER": {Name: "one", Env: true, Target: "OTHER", Mode: 0o444},
	} {
		got, err := parseSecrets([]string{text})
		if err != nil || !reflect.DeepEqual(got, []plan.Secret{want}) {
			t.Errorf("%s: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", ",type=env", "target=x", "one,type=x", "one,uid=x", "one,gid=-1", "one,mode=8", "one,mode=4755", "one,bogus",
		"one,type=env,uid=1", "one,mode=0400,type=env", "one,type=env,target=A=B",
	} {
		if got, err := parseSecrets([]string{text}); err == nil {
			t.Errorf("%q is %+v", text, got)
		}
	}
}
