package plan

import "testing"

func TestParseSyslog(t *testing.T) {
	for _, c := range []struct {
		address, facility, format string
		want                      Syslog
		bad                       bool
	}{
		{want: Syslog{Facility: 3}},
		{address: "udp://h", want: Syslog{Net: "udp", Address: "h:514", Facility: 3}},
		{address: "tcp://[::1]", facility: "local7", want: Syslog{Net: "tcp", Address: "[::1]:514", Facility: 23}},
		{address: "tcp://h:1", facility: "0", format: "rfc3164", want: Syslog{Net: "tcp", Address: "h:1", Format: "rfc3164"}},
		{address: "unixgram:///a/b", want: Syslog{Net: "unixgram", Address: "/a/b", Facility: 3}},
		{address: "h:1", bad: true},
		{address: "unix://", bad: true},
		{address: "tcp+tls://h", want: Syslog{Net: "tcp+tls", Address: "h:514", Facility: 3}},
		{facility: "24", bad: true},
		{facility: "local8", bad: true},
		{format: "rfc", bad: true},
	} {
		got, err := ParseSyslog(map[string]string{"syslog-address": c.address, "syslog-facility": c.facility, "syslog-format": c.format})
		if (err != nil) != c.bad || err == nil && got != c.want {
			t.Errorf("%+v: %+v %v", c, got, err)
		}
	}
}

func TestCheckLog(t *testing.T) {
	for _, c := range []struct {
		driver, key, val string
		good             bool
	}{
		{"", "max-size", "5k", true},
		{"", "max-size", "x", false},
		{"", "labels-regex", "^a", true},
		{"", "labels-regex", "(", false},
		{"", "syslog-address", "udp://h", false},
		{"local", "max-file", "0", false},
		{"journald", "tag", "x", true},
		{"journald", "cache-disabled", "true", true},
		{"syslog", "syslog-tls-cert", "x", false},
		{"syslog", "syslog-tls-cert", "/x", true},
		{"syslog", "syslog-tls-skip-verify", "x", false},
		{"syslog", "cache-compress", "x", false},
		{"", "compress", "true", true},
		{"none", "tag", "x", false},
		{"gelf", "tag", "x", false},
	} {
		if err := CheckLog(c.driver, map[string]string{c.key: c.val}); (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestCompressesLog(t *testing.T) {
	for _, c := range []struct {
		driver, key, val string
		want             bool
	}{
		{"", "max-file", "2", false},
		{"", "compress", "true", true},
		{"local", "max-file", "2", true},
		{"local", "max-file", "1", false},
		{"local", "compress", "false", false},
		{"syslog", "tag", "x", true},
		{"journald", "cache-compress", "false", false},
		{"journald", "cache-max-size", "-1", false},
	} {
		if got := CompressesLog(c.driver, map[string]string{c.key: c.val}); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}
