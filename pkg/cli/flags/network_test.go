package flags

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"cais.dev/cais/pkg/run/plan"
)

func TestNetworkFlags(t *testing.T) {
	port := func(p ...plan.Port) func(plan.Request) bool {
		return func(r plan.Request) bool { return slices.Equal(r.Ports, p) }
	}
	nets := func(mode string, a ...plan.Attachment) func(plan.Request) bool {
		return func(r plan.Request) bool { return r.Network == mode && reflect.DeepEqual(r.Networks, a) }
	}
	for args, ok := range map[string]func(plan.Request) bool{
		"-p 80":                port(plan.Port{Proto: "tcp", Port: 80}),
		"-p 8080:80":           port(plan.Port{Proto: "tcp", Port: 80, HostPort: 8080}),
		"-p 08:80/TCP":         port(plan.Port{Proto: "tcp", Port: 80, HostPort: 8}),
		"-p 80/tcp/udp":        port(plan.Port{Proto: "tcp", Port: 80}),
		"-p :80":               port(plan.Port{Proto: "tcp", Port: 80}),
		"-p ::80":              port(plan.Port{Proto: "tcp", Port: 80}),
		"-p 0:80":              port(plan.Port{Proto: "tcp", Port: 80}),
		"-p 127.0.0.1::80/udp": port(plan.Port{Proto: "udp", Port: 80, HostIP: "127.0.0.1"}),
		"-p 127.0.0.1:8080:80": port(plan.Port{Proto: "tcp", Port: 80, HostIP: "127.0.0.1", HostPort: 8080}),
		"-p [::1]:8080:80":     port(plan.Port{Proto: "tcp", Port: 80, HostIP: "::1", HostPort: 8080}),
		"-p ::1:8080:80":       port(plan.Port{Proto: "tcp", Port: 80, HostIP: "::1", HostPort: 8080}),
		"-p 8080-8090:80":      port(plan.Port{Proto: "tcp", Port: 80, HostPort: 8080, HostEnd: 8090}),
		"-p 90-91:80-81/sctp":  port(plan.Port{Proto: "sctp", Port: 80, HostPort: 90}, plan.Port{Proto: "sctp", Port: 81, HostPort: 91}),
		"-p 80-81":             port(plan.Port{Proto: "tcp", Port: 80}, plan.Port{Proto: "tcp", Port: 81}),
		"-p 80:80 -p 80:80":    port(plan.Port{Proto: "tcp", Port: 80, HostPort: 80}),
		"-p published=8080,target=80,protocol=udp,mode=host": port(plan.Port{Proto: "udp", Port: 80, HostPort: 8080}),
		"-p target=80": port(plan.Port{Proto: "tcp", Port: 80}),
		"-P --expose 80-81/udp --expose 7": func(r plan.Request) bool {
			return r.PublishAll && slices.Equal(r.Expose, []string{"80/udp", "81/udp", "7/tcp"})
		},
		"":                           nets(""),
		"--network default":          nets(""),
		"--network private":          nets(""),
		"--network pasta:--mtu,1500": nets(""),
		"--network bridge":           nets("bridge"),
		"--network none":             nets("none"),
		"--network ns:/run/netns/x":  nets("ns:/run/netns/x"),
		"--network mine":             nets("mine", plan.Attachment{Network: "mine"}),
		"--net mine --net-alias a --network-alias b --ip 10.0.0.2 --ip6 fd00::2 --mac-address 02-42-AC-11-00-09 --link-local-ip 169.254.3.3 --link other:o": nets("mine", plan.Attachment{
			Network: "mine", Aliases: []string{"a", "b"}, IP: "10.0.0.2", IP6: "fd00::2", MAC: "02:42:ac:11:00:09", LinkLocal: []string{"169.254.3.3"}, Links: []string{"other:o"},
		}),
		"--network mine --network yours --ip 10.0.0.2": nets("mine", plan.Attachment{Network: "mine", IP: "10.0.0.2"}, plan.Attachment{Network: "yours"}),
		"--network name=mine,alias=a,ALIAS=b,ip=10.0.0.2,ip6=fd00::2,mac-address=02:42:ac:11:00:09,link-local-ip=169.254.3.3,driver-opt=K=v,gw-priority=-5": nets("mine", plan.Attachment{
			Network: "mine", Aliases: []string{"a", "b"}, IP: "10.0.0.2", IP6: "fd00::2", MAC: "02:42:ac:11:00:09", LinkLocal: []string{"169.254.3.3"},
			DriverOpts: map[string]string{"k": "v"}, GwPriority: -5,
		}),
		"--network mine:ip=10.0.0.2,ip=fd00::2,mac=02:42:ac:11:00:09,alias=a,interface_name=net0": nets("mine", plan.Attachment{
			Network: "mine", IP: "10.0.0.2", IP6: "fd00::2", MAC: "02:42:ac:11:00:09", Aliases: []string{"a"}, Interface: "net0",
		}),
		"--mac-address 02:42:ac:11:00:09": func(r plan.Request) bool {
			return r.MacAddress == "02:42:ac:11:00:09" && reflect.DeepEqual(r.Networks, []plan.Attachment{{Network: "bridge", MAC: "02:42:ac:11:00:09"}})
		},
		"--link /a --link b:/c/d": func(r plan.Request) bool { return slices.Equal(r.Links, []string{"a:a", "b:d"}) && r.Networks == nil },
		"--dns 1.1.1.1 --dns ::1 --dns-search a.b --dns-search x. --dns-option ndots:3 --dns-opt q": func(r plan.Request) bool {
			return slices.Equal(r.DNS, []string{"1.1.1.1", "::1"}) && slices.Equal(r.DNSSearch, []string{"a.b", "x."}) && slices.Equal(r.DNSOptions, []string{"ndots:3", "q"})
		},
		"--add-host a:1.2.3.4 --add-host b=::1 --add-host c:[fe80::1] --add-host d:::2 --add-host e=host-gateway": func(r plan.Request) bool {
			return slices.Equal(r.AddHosts, []string{"a:1.2.3.4", "b:::1", "c:fe80::1", "d:::2", "e:host-gateway"})
		},
		"--network host --hostname a --dns 1.1.1.1 --add-host a:1.1.1.1 --expose 80 -P": func(r plan.Request) bool { return r.Network == "host" },
	} {
		r, _, err := parse(t, true, strings.Fields(args)...)
		if err != nil || !ok(r) {
			t.Errorf("%s: %v\n%+v", args, err, r)
		}
	}
}

func TestNetworkFlagErrors(t *testing.T) {
	for args, want := range map[string]string{
		"-p 8080-8083:80-82":     "invalid ranges specified for container and host Ports: 80-82 and 8080-8083",
		"-p 80:8080-8082":        "invalid ranges specified for container and host Ports: 8080-8082 and 80",
		"-p 99999:80":            "invalid hostPort: 99999",
		"-p 80:99999":            "invalid containerPort: 99999",
		"-p abc":                 "invalid containerPort: abc",
		"-p 80:0":                "invalid containerPort: 0",
		"-p abc:80":              "invalid hostPort: abc",
		"-p 8082-8080:80":        "invalid hostPort: 8082-8080",
		"-p 80-":                 "invalid containerPort: 80-",
		"-p +80":                 "invalid containerPort: +80",
		"-p 1.2.3:80:80":         "invalid IP address: 1.2.3",
		"-p a:b:c:d":             "invalid IP address: a:b",
		"-p 80/foo":              "invalid proto: foo",
		"-p :":                   "no port specified: :<empty>",
		"-p 80:":                 "no port specified: 80:<empty>",
		"-p /tcp":                "no port specified: /tcp<empty>",
		"-p target=80,published": "invalid publish opts format (should be name=value but got 'published')",
		"-p target=abc":          "invalid containerPort: abc",
		"--expose abc":           `invalid range format for --expose: abc, error: strconv.ParseUint: parsing "abc": invalid syntax`,
		"--expose 99999":         `invalid range format for --expose: 99999, error: strconv.ParseUint: parsing "99999": value out of range`,
		"--expose 80:80":         "invalid port format for --expose: 80:80",
		"--expose 82-80":         "invalid range format for --expose: 82-80, error: invalid range specified for port: 82-80",

		"--network=":                                 "no name set for network",
		"--network a --network a":                    `network "a" is specified multiple times`,
		"--network a --network bridge":               "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
		"--network host --network none":              "conflicting options: cannot attach both user-defined and non-user-defined network-modes",
		"--network a,alias=x":                        "invalid field a",
		"--network name=a,foo=bar":                   "invalid field key foo",
		"--network alias=x":                          "network name/id is not specified",
		"--network name=a,driver-opt=b":              "invalid key value pair format in driver options",
		"--network name=a,gw-priority=x":             "invalid gw-priority (x): invalid syntax",
		"--network name=a,mac-address=foo":           "foo is not a valid mac address",
		"--mac-address ff:ff:ff:ff:ff:ff":            "ff:ff:ff:ff:ff:ff is not a valid mac address: it is no interface's own",
		"--mac-address 01:00:5e:00:00:01":            "01:00:5e:00:00:01 is not a valid mac address: it is no interface's own",
		"--mac-address 00:00:00:00:00:00":            "00:00:00:00:00:00 is not a valid mac address: it is no interface's own",
		"--network name=host,alias=x":                "network-scoped aliases are only supported for user-defined networks",
		"--network-alias x":                          "network-scoped aliases are only supported for user-defined networks",
		"--network name=a,ip=1.2.3.4 --ip 1.2.3.5":   "conflicting options: cannot specify both --ip and per-network IPv4 address",
		"--network name=a,ip6=::1 --ip6 ::2":         "conflicting options: cannot specify both --ip6 and per-network IPv6 address",
		"--network name=a,alias=b --network-alias c": "conflicting options: cannot specify both --network-alias and per-network alias",
		"--network name=a,mac-address=02:42:ac:11:00:09 --mac-address 02:42:ac:11:00:08": "conflicting options: cannot specify both --mac-address and per-network MAC address",
		"--network name=a,link-local-ip=169.254.1.1 --link-local-ip 169.254.1.2":         "conflicting options: cannot specify both --link-local-ip and per-network link-local IP addresses",
		"--network a --ip foo":                                  "invalid IPv4 address: foo",
		"--network a --ip ::1":                                  "invalid IPv4 address: ::1",
		"--network a --ip6 1.2.3.4":                             "invalid IPv6 address: 1.2.3.4",
		"--ip 172.17.0.9":                                       "user specified IP address is supported on user defined networks only",
		"--network host --ip 1.2.3.4":                           "user specified IP address is supported on user defined networks only",
		"--network container:":                                  "--network: invalid container format container:<name|id>",
		"--network ns:relative":                                 "--network: invalid NETWORK mode: ns:relative",
		"--network container:o --hostname a":                    "conflicting options: hostname and the network mode",
		"--network container:o --dns 1.1.1.1":                   "conflicting options: dns and the network mode",
		"--network container:o --add-host a:1.1.1.1":            "conflicting options: custom host-to-IP mapping and the network mode",
		"--network container:o -p 80":                           "conflicting options: port publishing and the container type network mode",
		"--network container:o -P":                              "conflicting options: port publishing and the container type network mode",
		"--network container:o --expose 80":                     "conflicting options: port exposing and the container type network mode",
		"--network container:o --link a":                        "conflicting options: container type network can't be used with links. This would result in undefined behavior",
		"--network host --link a":                               "conflicting options: host type networking can't be used with links. This would result in undefined behavior",
		"--network container:x --mac-address 02:42:ac:11:00:09": "conflicting options: mac-address and the network mode",
		"--mac-address 02:42":                                   "02:42 is not a valid mac address",
		"--link a:b:c":                                          "bad format for links: a:b:c",
		"--link=":                                               "empty string specified for links",
		"--dns foo":                                             "IP address is not correctly formatted: foo",
		"--dns 1.1.1.1,2.2.2.2":                                 "IP address is not correctly formatted: 1.1.1.1,2.2.2.2",
		"--dns-search a_b":                                      "a_b is not a valid domain",
		"--dns-search -x":                                       "-x is not a valid domain",
		"--dns-search a,b":                                      "a,b is not a valid domain",
		"--add-host a":                                          `bad format for add-host: "a"`,
		"--add-host a:":                                         `invalid IP address in add-host: ""`,
		"--add-host :1.2.3.4":                                   `bad format for add-host: ":1.2.3.4"`,
		"--add-host a#b:1.2.3.4":                                `bad format for add-host: "a#b:1.2.3.4"`,
		"--add-host a:foo":                                      `invalid IP address in add-host: "foo"`,
		"--add-host a:1.2.3.4:5":                                `invalid IP address in add-host: "1.2.3.4:5"`,
	} {
		_, _, err := parse(t, true, strings.Fields(args)...)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
	_, o, err := parse(t, true, "--network", "host", "-p", "80")
	if err != nil || !slices.Equal(o.Warnings, []string{"Published ports are discarded when using host network mode"}) {
		t.Errorf("%v, %q", err, o.Warnings)
	}
}

// FuzzNetwork: whatever is typed, there is an error or something that can be read
// again.
func FuzzNetwork(f *testing.F) {
	for _, s := range []string{"name=a,ip=1.2.3.4", "a:ip=::1", "container:x", `name="a,b"`, "8080:80/tcp", "[::1]:1-2:3-4", "a=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, _ = parseNetwork(s)
		if ports, err := plan.ParsePorts(s); err == nil {
			for _, p := range ports {
				if p.Port < 1 || p.Port > 65535 || p.HostPort < 0 || p.HostPort > 65535 || p.HostEnd > 65535 {
					t.Errorf("%q: %+v", s, p)
				}
			}
		}
		_, _ = extraHost(s)
		_, _ = parseLink(s)
		_, _ = SearchDomain(s)
		_, _ = standardPort(s)
	})
}
