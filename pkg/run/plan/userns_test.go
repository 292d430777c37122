package plan

import (
	"reflect"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

// user is an ordinary user with id 1000 and 65536 subordinate ids.
func user() Host {
	return Host{Rootless: true, InUserNS: true, UID: 1000, GID: 1000,
		UIDs: []IDMap{{0, 1000, 1}, {1, 100000, 65536}}, GIDs: []IDMap{{0, 1000, 1}, {1, 100000, 65536}}}
}

func TestDecideIDs(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  Request
		host Host
		in   IDInputs
		want []IDMap
	}{
		{"host", Request{UserNS: "host"}, user(), IDInputs{}, nil},
		{"keep-id", Request{UserNS: "keep-id"}, user(), IDInputs{}, []IDMap{{0, 1, 1000}, {1000, 0, 1}, {1001, 1001, 64536}}},
		{"keep-id of another", Request{UserNS: "keep-id:uid=5,gid=5"}, user(), IDInputs{}, []IDMap{{0, 1, 5}, {5, 0, 1}, {6, 6, 65531}}},
		{"nomap", Request{UserNS: "nomap"}, user(), IDInputs{}, []IDMap{{0, 1, 65536}}},
		{"private", Request{UserNS: "private"}, user(), IDInputs{}, []IDMap{{0, 0, 1}, {1, 1, 65536}}},
		{"auto", Request{UserNS: "auto:size=10"}, user(), IDInputs{Taken: []IDs{{UIDs: []IDMap{{0, 1, 100}}, GIDs: []IDMap{{0, 1, 100}}}}}, []IDMap{{0, 101, 10}}},
		{"auto for the image's users", Request{UserNS: "auto"}, user(), IDInputs{Passwd: []byte("a:x:2000:1::/:\nnobody:x:65534:65534::/:\n")}, []IDMap{{0, 1, 2001}}},
		{"auto with a hole", Request{UserNS: "auto:size=10,uidmapping=5:0:1,gidmapping=5:0:1"}, user(), IDInputs{}, []IDMap{{5, 0, 1}, {0, 1, 5}, {6, 6, 4}}},
		{"explicit", Request{UIDMaps: []string{"0:1:10", "10:@100100:5"}}, user(), IDInputs{}, []IDMap{{0, 1, 10}, {10, 101, 5}}},
		{"names", Request{SubUIDName: "x", SubGIDName: "x"}, Host{}, IDInputs{SubUIDs: []IDMap{{0, 5000, 10}}, SubGIDs: []IDMap{{0, 5000, 10}}}, []IDMap{{0, 5000, 10}}},
		{"root keeps all", Request{UserNS: "keep-id"}, Host{}, IDInputs{}, []IDMap{{0, 0, 1<<32 - 1}}},
		{"root's auto", Request{UserNS: "auto"}, Host{}, IDInputs{AutoUIDs: []IDMap{{0, 7000, 5000}}, AutoGIDs: []IDMap{{0, 7000, 5000}}}, []IDMap{{0, 7000, 1024}}},
	} {
		got, err := DecideIDs(tt.req, tt.host, tt.in)
		if err != nil || !reflect.DeepEqual(got.UIDs, tt.want) || !reflect.DeepEqual(got.GIDs, tt.want) {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}

func TestDecideIDsRefuses(t *testing.T) {
	single := Host{Rootless: true, SingleID: true, UIDs: []IDMap{{0, 1000, 1}}, GIDs: []IDMap{{0, 1000, 1}}, UID: 1000, GID: 1000}
	for _, tt := range []struct {
		req  Request
		host Host
		want string
		hint string
	}{
		{Request{UserNS: "keep-id"}, single, "needs subordinate ids", "usermod"},
		{Request{UserNS: "auto"}, single, "needs subordinate ids", "usermod"},
		{Request{UserNS: "nomap"}, single, "needs subordinate ids", "usermod"},
		{Request{UserNS: "nomap"}, Host{}, "only supported in rootless mode", ""},
		{Request{UserNS: "private"}, Host{}, "at least one UID or GID mapping", ""},
		{Request{UserNS: "auto:size=70000"}, user(), "could not find 70000 ids", "auto:size=N"},
		{Request{UserNS: "auto:foo=1"}, user(), "unknown option specified", ""},
		{Request{UserNS: "bogus"}, user(), "invalid USER mode", ""},
		{Request{UIDMaps: []string{"0:1:2:3"}}, user(), "invalid id mapping", ""},
		{Request{UIDMaps: []string{"0:1:5", "3:9:1"}}, user(), "overlap", ""},
		{Request{UIDMaps: []string{"1:1:5"}}, user(), "without an id 0", ""},
		{Request{UIDMaps: []string{"0:65000:5000"}}, user(), "do not exist in your user namespace", "usermod"},
		{Request{UIDMaps: []string{"0:@5:5"}}, user(), "are not yours", ""},
		{Request{UserNS: "auto", UIDMaps: []string{"0:1:5"}}, user(), "cannot be used together", ""},
	} {
		_, err := DecideIDs(tt.req, tt.host, IDInputs{})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(errs.HintOf(err), tt.hint) {
			t.Errorf("%+v: %v (%s); want %q", tt.req.UserNS, err, errs.HintOf(err), tt.want)
		}
	}
}

// An id goes out and comes back.
func TestMapTurn(t *testing.T) {
	maps := []IDMap{{0, 1, 1000}, {1000, 0, 1}, {1001, 1001, 64536}}
	for _, id := range []uint32{0, 1, 999, 1000, 1001, 65536} {
		out, ok := Map(maps, id)
		if back, ok2 := Map(Turn(maps), out); !ok || !ok2 || back != id {
			t.Errorf("%d -> %d -> %d", id, out, back)
		}
	}
	if _, ok := Map(maps, 70000); ok {
		t.Error("an id that is not mapped has a place outside")
	}
}

func TestKeepID(t *testing.T) {
	for _, tt := range []struct{ name, mode, workdir, passwd, user, line string }{
		{"me", "keep-id", "/w", "root:x:0:0::/root:\n", "1000:1000", "me:*:1000:1000:me:/w:/bin/sh\n"},
		{"me", "keep-id", "/w", "you:x:1000:1000::/:\n", "1000:1000", ""},
		{"me", "keep-id:uid=7,gid=8", "/w", "", "7:8", "me:*:7:8:me:/w:/bin/sh\n"},
		{"a\nb", "keep-id", "/w", "", "1000:1000", ""},
		{"me", "keep-id", "/w\nroot2::0:0", "", "1000:1000", ""}, // the image says where
		{"me", "keep-id", "/w:/bin/evil", "", "1000:1000", ""},
		{"me", "auto", "/w", "", "", ""},
	} {
		u, line := KeepID(Request{UserNS: tt.mode}, user(), tt.name, tt.workdir, []byte(tt.passwd))
		if u != tt.user || line != tt.line {
			t.Errorf("%q %s: %q %q", tt.name, tt.mode, u, line)
		}
	}
}
