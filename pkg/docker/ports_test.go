package docker

import (
	"strings"
	"testing"
)

func TestPortsText(t *testing.T) {
	both := func(p string) []PortBinding { return []PortBinding{{"0.0.0.0", p}, {"::", p}} }
	ports := map[string][]PortBinding{
		"53/udp": both("5353"), "70/tcp": {{"127.0.0.1", "7000"}}, "80/tcp": both("8080"), "81/tcp": both("32768"), "90/tcp": both("9090"), "99/tcp": nil,
	}
	want := "99/tcp, 0.0.0.0:5353->53/udp, [::]:5353->53/udp, 127.0.0.1:7000->70/tcp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp, 0.0.0.0:32768->81/tcp, [::]:32768->81/tcp, 0.0.0.0:9090->90/tcp, [::]:9090->90/tcp"
	if got := PortsText(ports); got != want { // as Docker 20.10 printed it
		t.Errorf("got  %s\nwant %s", got, want)
	}
	own := map[string][]PortBinding{"80/tcp": both("80"), "81/tcp": both("81"), "82/tcp": both("82"), "90/udp": nil, "91/udp": nil, "93/udp": nil}
	if got := PortsText(own); got != "90-91/udp, 0.0.0.0:80-82->80-82/tcp, [::]:80-82->80-82/tcp, 93/udp" {
		t.Error(got)
	}
	lines := strings.Join(PublishedText(ports), "\n")
	if !strings.HasPrefix(lines, "53/udp -> 0.0.0.0:5353\n53/udp -> [::]:5353\n70/tcp -> 127.0.0.1:7000\n80/tcp -> 0.0.0.0:8080\n") {
		t.Error(lines)
	}
}
