package plan

import (
	"reflect"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestIDMap(t *testing.T) {
	own := IDs{UIDs: []IDMap{{0, 100000, 10}, {10, 300000, 10}}, GIDs: []IDMap{{0, 200000, 10}}}
	ids := func(list ...uint32) (out []specs.LinuxIDMapping) {
		for i := 0; i < len(list); i += 3 {
			out = append(out, specs.LinuxIDMapping{ContainerID: list[i], HostID: list[i+1], Size: list[i+2]})
		}
		return out
	}
	tests := []struct {
		option     string
		host       Host
		ids        IDs
		uids, gids []specs.LinuxIDMapping
		err        string
	}{
		{option: "ro"},
		{option: "idmap", ids: own, uids: ids(0, 100000, 10, 10, 300000, 10), gids: ids(0, 200000, 10)},
		{option: "idmap", err: "no user namespace of its own"},
		{option: "idmap", host: Host{Rootless: true}, ids: own, err: "only for the machine's root"},
		{option: "idmap=uids=0-1-10#10-11-10;gids=0-100-10", uids: ids(0, 1, 10, 10, 11, 10), gids: ids(0, 100, 10)},
		{option: "idmap=uids=@0-5-5;gids=@1-9-1", ids: own, uids: ids(0, 100005, 5), gids: ids(1, 200009, 1)},
		{option: "idmap=uids=@0-5-10;gids=@1-9-1", ids: own, err: "within one range"},
		{option: "idmap=uids=0-1-1", err: "both uids and gids"},
		{option: "idmap=uids=0-1-0;gids=0-1-1", err: "FILE-SEEN-SIZE"},
		{option: "idmap=uids=0-1-1x;gids=0-1-1", err: "FILE-SEEN-SIZE"},
		{option: "idmap=users=0-1-1", err: "neither uids nor gids"},
	}
	for _, tt := range tests {
		b := builder{host: tt.host, in: Inputs{IDs: tt.ids}}
		var m specs.Mount
		err := b.idmap(&m, []string{tt.option})
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: %v, want %q", tt.option, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(m.UIDMappings, tt.uids) || !reflect.DeepEqual(m.GIDMappings, tt.gids) {
			t.Errorf("%s: %v %v, %v; want %v %v", tt.option, m.UIDMappings, m.GIDMappings, err, tt.uids, tt.gids)
		}
	}
}
