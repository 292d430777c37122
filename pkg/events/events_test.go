package events

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

func all(t *testing.T, l Log, o ReadOptions) []Event {
	t.Helper()
	var list []Event
	if err := l.Read(t.Context(), o, func(e Event) error { list = append(list, e); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAppendAndRead(t *testing.T) {
	l := In(t.TempDir())
	if got := all(t, l, ReadOptions{}); got != nil {
		t.Fatalf("an empty log has %v", got)
	}
	first := Event{Type: Container, Action: "exec_create: sh -c \"a\nb\"", ID: "ab", Attributes: map[string]string{"name": "wéb", "a": "\x01"}}
	if err := l.Append(first, Event{Type: Volume, Action: "create", ID: "v", Time: time.Unix(5, 6)}); err != nil {
		t.Fatal(err)
	}
	got := all(t, l, ReadOptions{})
	if len(got) != 2 || got[0].Action != first.Action || got[0].Attributes["name"] != "wéb" || got[0].Attributes["a"] != "\x01" {
		t.Fatalf("%+v", got)
	}
	if got[1].Time.UnixNano() != 5e9+6 || got[1].ID != "v" {
		t.Errorf("%+v", got[1])
	}
	if late := all(t, l, ReadOptions{Since: time.Unix(6, 0)}); len(late) != 1 {
		t.Errorf("since: %+v", late)
	}
	fi, err := os.Stat(l.Path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", fi, err)
	}
}

func TestTornLines(t *testing.T) {
	l := In(t.TempDir())
	if err := l.Append(Event{Type: Image, Action: "pull", ID: "a"}); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(l.Path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("nonsense\n" + `{"Type":"container","Action":"st`); err != nil {
		t.Fatal(err)
	}
	if err := l.Append(Event{Type: Image, Action: "tag", ID: "b"}); err != nil {
		t.Fatal(err)
	}
	got := all(t, l, ReadOptions{})
	if len(got) != 2 || got[1].Action != "tag" {
		t.Errorf("%+v", got)
	}
}

func TestFollowThroughRotation(t *testing.T) {
	l := In(t.TempDir())
	if err := l.Append(Event{Type: Image, Action: "old"}); err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 60
	long := strings.Repeat("x", 64<<10) // 15 MB in all: several rotations
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := errors.New("done")
	seen := map[string]int{}
	ready := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		n := 0
		close(ready)
		result <- l.Read(ctx, ReadOptions{Since: time.Unix(1, 0), Follow: true}, func(e Event) error {
			if e.Action == "old" {
				return nil
			}
			seen[e.ID]++
			if n++; n == writers*each {
				return done
			}
			return nil
		})
	}()
	<-ready
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				e := Event{Type: Image, Action: "x", ID: strconv.Itoa(w) + "/" + strconv.Itoa(i), Attributes: map[string]string{"a": long}}
				if err := l.Append(e); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Millisecond) // a reader that is slower than all writers may miss files
			}
		})
	}
	wg.Wait()
	if err := <-result; !errors.Is(err, done) {
		t.Fatalf("%v after %d events", err, len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was told %d times", id, n)
		}
	}
	files, _ := filepath.Glob(l.Path + "*")
	if len(files) < 3 || len(files) > maxFiles+1 {
		t.Errorf("files: %v", files)
	}
}

func TestUntil(t *testing.T) {
	l := In(t.TempDir())
	begin := time.Now()
	if err := l.Append(Event{Type: Image, Action: "a"}); err != nil {
		t.Fatal(err)
	}
	got := all(t, l, ReadOptions{Since: begin, Until: time.Now().Add(50 * time.Millisecond), Follow: true})
	if len(got) != 1 {
		t.Errorf("%+v", got)
	}
	if got := all(t, l, ReadOptions{Since: begin, Until: begin.Add(-time.Second), Follow: true}); got != nil {
		t.Errorf("%+v", got)
	}
}

func TestMessageIsDockers(t *testing.T) {
	e := Event{Type: Container, Action: "start", ID: "c", Attributes: map[string]string{"image": "busybox", "name": "w"}, Time: time.Unix(1, 2)}
	b, err := json.Marshal(e.Message())
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"status":"start","id":"c","from":"busybox","Type":"container","Action":"start","Actor":{"ID":"c","Attributes":{"image":"busybox","name":"w"}},"scope":"local","time":1,"timeNano":1000000002}`
	if string(b) != want {
		t.Errorf("%s", b)
	}
}
