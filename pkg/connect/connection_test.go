package connect

import (
	"slices"
	"testing"
)

func TestOwnSysctls(t *testing.T) {
	tests := []struct {
		name   string
		user   map[string]string
		engine string
		ipv6   bool
		want   []string
	}{
		{name: "the bridge keeps the host's way with congestion", engine: engineBridge, ipv6: true, want: []string{noIPv6 + "=0", noIPv6Later + "=0"}},
		{name: "each connection of the relay ends next door", engine: engineRelay, want: []string{noIPv6 + "=1", noIPv6Later + "=1", loopback6, congestion + "=reno"}},
		{name: "the user's own", user: map[string]string{noIPv6: "0", congestion: "bbr"}, engine: engineRelay, want: nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := ownSysctls(tt.user, tt.engine, tt.ipv6); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
