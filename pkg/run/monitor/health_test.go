package monitor

import (
	"encoding/json"
	"testing"
	"time"

	"cais.dev/cais/pkg/container"
)

func TestHealthJSON(t *testing.T) {
	h := health{status: "unhealthy", streak: 3, log: []probed{{time.Unix(1, 2), time.Unix(3, 4), -1, "a\"\n\x01"}}}
	var got container.Health
	if err := json.Unmarshal(h.json(), &got); err != nil {
		t.Fatalf("%v in %s", err, h.json())
	}
	if got.Status != "unhealthy" || got.FailingStreak != 3 || len(got.Log) != 1 || got.Log[0].ExitCode != -1 ||
		got.Log[0].Output != "a\"\n\x01" || !got.Log[0].End.Equal(time.Unix(3, 4)) {
		t.Errorf("%+v", got)
	}
}
