package network

import (
	"slices"
	"testing"
	"time"

	"cais.dev/cais/pkg/network"
)

func TestFilters(t *testing.T) {
	all := []*network.Network{
		{ID: "aa11", Name: "bridge", Driver: "bridge"},
		{ID: "bb22", Name: "mine", Driver: "bridge", Labels: map[string]string{"a": "b"}, Created: time.Now().Add(-time.Hour)},
		{ID: "cc33", Name: "other", Driver: "macvlan", Labels: map[string]string{"a": "c"}, Created: time.Now()},
	}
	for _, tt := range []struct {
		args []string
		want []string
		err  string
	}{
		{args: nil, want: []string{"bridge", "mine", "other"}},
		{args: []string{"driver=bridge"}, want: []string{"bridge", "mine"}},
		{args: []string{"name=i"}, want: []string{"bridge", "mine"}},
		{args: []string{"name=^m"}, want: []string{"mine"}},
		{args: []string{"id=b2"}, want: []string{"mine"}},
		{args: []string{"type=custom"}, want: []string{"mine", "other"}},
		{args: []string{"type=builtin"}, want: []string{"bridge"}},
		{args: []string{"label=a", "label=a=b"}, want: []string{"mine"}},
		{args: []string{"label!=a=b"}, want: []string{"bridge", "other"}},
		{args: []string{"scope=foo"}},
		{args: []string{"driver=macvlan", "driver=bridge", "name=o"}, want: []string{"other"}},
		{args: []string{"type=foo"}, err: "invalid filter: 'type'='foo'"},
		{args: []string{"foo=bar"}, err: "invalid filter 'foo'"},
		{args: []string{"foo"}, err: `invalid argument "foo" for "-f, --filter" flag: bad format of filter (expected name=value)`},
		{args: []string{"dangling=foo"}, err: `invalid value for filter 'dangling', must be "true" (or "1"), or "false" (or "0")`},
	} {
		f, err := parseFilters(tt.args, "dangling", "driver", "id", "label", "label!", "name", "scope", "type")
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%v: %v", tt.args, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, n := range all {
			if f.match(n, false, time.Time{}) {
				got = append(got, n.Name)
			}
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, want %v", tt.args, got, tt.want)
		}
	}
}
