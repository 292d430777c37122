package progress

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"time"
)

// RawJSON returns the view for programs: a line of JSON for each event, in the
// form of buildx's --progress=rawjson (BuildKit's SolveStatus).
func RawJSON(w io.Writer) View {
	return &rawJSON{enc: json.NewEncoder(w), steps: map[int]*rawVertex{}}
}

type rawJSON struct {
	enc   *json.Encoder
	steps map[int]*rawVertex
}

type rawStatus struct {
	Vertexes []rawVertex  `json:"vertexes,omitempty"`
	Statuses []rawItem    `json:"statuses,omitempty"`
	Logs     []rawLog     `json:"logs,omitempty"`
	Warnings []rawWarning `json:"warnings,omitempty"`
}

type rawVertex struct {
	Digest    string     `json:"digest"`
	Name      string     `json:"name"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

type rawItem struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex"`
	Name      string     `json:"name,omitempty"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type rawLog struct {
	Vertex    string    `json:"vertex"`
	Stream    int       `json:"stream"`
	Data      []byte    `json:"data"` // base64
	Timestamp time.Time `json:"timestamp"`
}

type rawWarning struct {
	Vertex string `json:"vertex"`
	Level  int    `json:"level"`
	Short  []byte `json:"short"` // base64
}

// Event writes e.
func (r *rawJSON) Event(e Event) {
	v := r.steps[e.Step]
	if v == nil {
		sum := sha256.Sum256([]byte(strconv.Itoa(e.Step) + " " + e.Name))
		v = &rawVertex{Digest: "sha256:" + hex.EncodeToString(sum[:]), Name: e.Name, Started: &e.Time}
		r.steps[e.Step] = v
	}
	var out rawStatus
	switch e.Kind {
	case Start:
		out.Vertexes = []rawVertex{*v}
	case Output:
		out.Logs = []rawLog{{Vertex: v.Digest, Stream: e.Stream, Data: e.Data, Timestamp: e.Time}}
	case Warn:
		out.Warnings = []rawWarning{{Vertex: v.Digest, Level: 1, Short: e.Data}}
	case Change:
		i := rawItem{ID: e.Item.Name, Vertex: v.Digest, Total: e.Item.Total, Current: e.Item.Done, Timestamp: e.Time, Started: &e.Item.Started}
		if e.Item.Finished {
			i.Completed = &e.Time
		}
		out.Statuses = []rawItem{i}
	case Finish:
		v.Completed, v.Cached = &e.Time, e.Cached
		if e.Err != nil {
			v.Error = e.Err.Error()
		}
		out.Vertexes = []rawVertex{*v}
		delete(r.steps, e.Step)
	}
	r.enc.Encode(out) //nolint:errcheck // nobody is left to tell
}

// Close does nothing: each line is complete.
func (r *rawJSON) Close() {}
