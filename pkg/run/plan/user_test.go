package plan

import "testing"

func TestOwner(t *testing.T) {
	passwd, group := []byte("app:x:7:8::/:\nodd:x:1000:9::/:\n"), []byte("app:x:8:\nstaff:x:50:\n")
	for _, tt := range []struct {
		owner    string
		uid, gid uint32
		unknown  string
	}{
		{"app", 7, 8, ""},
		{"app:staff", 7, 50, ""},
		{"1000", 1000, 1000, ""},
		{"1000:staff", 1000, 50, ""},
		{"app:4", 7, 4, ""},
		{"who", 0, 0, "who"},
		{"who:staff", 0, 50, "who"},
		{"app:who", 7, 8, "who"},
		{"5:who", 5, 5, "who"},
	} {
		uid, gid, unknown, err := Owner(tt.owner, passwd, group)
		if err != nil || uid != tt.uid || gid != tt.gid || unknown != tt.unknown {
			t.Errorf("%s: %d:%d, %q, %v; want %d:%d, %q", tt.owner, uid, gid, unknown, err, tt.uid, tt.gid, tt.unknown)
		}
	}
	if _, _, _, err := Owner("a:b:c", passwd, group); err == nil {
		t.Error("three parts are taken")
	}
}
