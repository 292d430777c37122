package plan

import (
	"slices"
	"testing"

	"cais.dev/cais/pkg/oci"
)

func TestWithLinks(t *testing.T) {
	other := Request{Env: []string{"A=own", "HOME=/h"}, Expose: []string{"90/udp"}}
	img := oci.Config{Env: []string{"A=image", "PATH=/bin", "B=b"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}}
	rows := Request{Expose: []string{"6000/tcp", "6001/tcp", "6002/tcp"}}
	tests := []struct {
		name  string
		links []Link
		want  []string
	}{
		{name: "none"},
		{"without ports", []Link{{Owner: "web", Alias: "db", IP: "172.17.0.2"}}, []string{"DB_NAME=/web/db"}},
		{"ports and environment", []Link{{Owner: "web", Alias: "my-db", IP: "172.17.0.2", Request: other, Image: img}}, []string{
			"MY_DB_PORT=tcp://172.17.0.2:80",
			"MY_DB_PORT_80_TCP=tcp://172.17.0.2:80", "MY_DB_PORT_80_TCP_ADDR=172.17.0.2", "MY_DB_PORT_80_TCP_PORT=80", "MY_DB_PORT_80_TCP_PROTO=tcp",
			"MY_DB_PORT_90_UDP=udp://172.17.0.2:90", "MY_DB_PORT_90_UDP_ADDR=172.17.0.2", "MY_DB_PORT_90_UDP_PORT=90", "MY_DB_PORT_90_UDP_PROTO=udp",
			"MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=own", "MY_DB_ENV_B=b",
		}},
		{"ports in a row", []Link{{Owner: "web", Alias: "r", IP: "1.2.3.4", Request: rows}}, []string{
			"R_PORT=tcp://1.2.3.4:6000",
			"R_PORT_6000_TCP_START=tcp://1.2.3.4:6000", "R_PORT_6000_TCP_ADDR=1.2.3.4", "R_PORT_6000_TCP_PROTO=tcp", "R_PORT_6000_TCP_PORT_START=6000",
			"R_PORT_6000_TCP_END=tcp://1.2.3.4:6002", "R_PORT_6000_TCP_PORT_END=6002",
			"R_PORT_6000_TCP=tcp://1.2.3.4:6000", "R_PORT_6000_TCP_PORT=6000",
			"R_PORT_6001_TCP=tcp://1.2.3.4:6001", "R_PORT_6001_TCP_ADDR=1.2.3.4", "R_PORT_6001_TCP_PORT=6001", "R_PORT_6001_TCP_PROTO=tcp",
			"R_PORT_6002_TCP=tcp://1.2.3.4:6002", "R_PORT_6002_TCP_ADDR=1.2.3.4", "R_PORT_6002_TCP_PORT=6002", "R_PORT_6002_TCP_PROTO=tcp",
			"R_NAME=/web/r",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := append([]string{"PATH=/bin"}, tt.want...)
			if got := WithLinks([]string{"PATH=/bin"}, tt.links); !slices.Equal(got, want) {
				t.Errorf("got  %q\nwant %q", got, want)
			}
		})
	}
	own := []string{"DB_NAME=mine"}
	if got := WithLinks(own, []Link{{Owner: "web", Alias: "db"}}); !slices.Equal(got, own) {
		t.Errorf("the container's own variable: %q, want %q", got, own)
	}
}
