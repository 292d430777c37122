package plan

import "testing"

func TestEntries(t *testing.T) {
	const passwd, group = "root:x:0:0:root:/root:/bin/sh\nu:x:7:7::/:/bin/sh", "root:x:0:\ng:x:8:u"
	for _, tt := range []struct {
		req        Request
		home       string
		user, grps string
	}{
		{Request{User: "5:6"}, "/w", "", ""},
		{Request{User: "5:6", Passwd: "true"}, "/w", "5:*:5:6:container user:/w:/bin/sh\n", "6:x:6:5\n"},
		{Request{User: "5:6", Passwd: "true"}, "/w\nevil::0:0", "5:*:5:6:container user:/:/bin/sh\n", "6:x:6:5\n"},
		{Request{User: "5", Passwd: "true"}, "/w", "5:*:5:0:container user:/w:/bin/sh\n", ""},
		{Request{User: "7:8", Passwd: "true"}, "/w", "", ""},
		{Request{User: "u:g", Passwd: "true"}, "/w", "", ""},
		{Request{Passwd: "true"}, "/w", "", ""},
		{Request{User: "5:6", PasswdEntry: "me-$USERNAME:x:$UID:$GID:$NAME:$HOME:/bin/x"}, "/w", "me-5:x:5:6:container user:/w:/bin/x\n", ""},
		{Request{User: "5:6", GroupEntry: "g$GROUPNAME:x:$GID:$USERLIST"}, "/w", "", "g6:x:6:5\n"},
		{Request{User: "5:6", Passwd: "false", PasswdEntry: "x", GroupEntry: "y"}, "/w", "", ""},
	} {
		if user, grp := Entries(tt.req, tt.home, []byte(passwd), []byte(group)); user != tt.user || grp != tt.grps {
			t.Errorf("%+v: %q %q", tt.req, user, grp)
		}
	}
}
