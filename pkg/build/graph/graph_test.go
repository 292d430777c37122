package graph

import (
	"strings"
	"testing"
)

func TestBuilderDropsTwinsAndWhatNobodyNeeds(t *testing.T) {
	var b Builder
	base := b.Add(Node{Op: &Image{Ref: "debian", Digest: "sha256:1"}})
	unused := b.Add(Node{Op: &Local{Name: "unused"}})
	ctx := b.Add(Node{Op: &Local{Name: "context"}})
	run := b.Add(Node{Op: &Exec{Root: base, Args: []string{"a"}}, Name: "first"})
	if twin := b.Add(Node{Op: &Exec{Root: base, Args: []string{"a"}}, Name: "second"}); twin != run {
		t.Errorf("the same command is there twice: %d, %d", run, twin)
	}
	if other := b.Add(Node{Op: &Exec{Root: base, Args: []string{"a"}}, NoCache: true}); other == run {
		t.Error("a node without cache shares one with")
	}
	cp := b.Add(Node{Op: &Copy{On: run, Dest: "/", Sources: []CopySource{{From: ctx, Path: "/x"}, {From: None, File: &File{Name: "f"}}}}})
	g := b.Graph([]Result{{Node: cp, Base: base, Layers: []ID{run, cp}}, {Node: None, Base: None}}, Source{})
	if len(g.Nodes) != 4 {
		t.Fatalf("%d nodes, want image, context, exec, copy: %+v", len(g.Nodes), g.Nodes)
	}
	for i, n := range g.Nodes {
		for _, in := range n.Op.Inputs() {
			if in >= ID(i) {
				t.Errorf("node %d reads %d, which comes later", i, in)
			}
		}
	}
	r := g.Results[0]
	if r.Node != 3 || r.Base != 0 || r.Layers[0] != 2 || r.Layers[1] != 3 || g.Results[1].Node != None {
		t.Errorf("results %+v", g.Results)
	}
	if c := g.Nodes[3].Op.(*Copy); c.On != 2 || c.Sources[0].From != 1 || c.Sources[1].From != None {
		t.Errorf("copy %+v", c)
	}
	if b.Node(cp).Op.(*Copy).On != run || b.Node(unused).Op == nil {
		t.Error("the builder's own nodes changed")
	}
	if users := g.Users(); len(users[0]) != 1 || users[0][0] != 2 || len(users[3]) != 0 {
		t.Errorf("users %v", users)
	}
}

func TestExcerpt(t *testing.T) {
	src := Source{Name: "Dockerfile", Data: []byte("one\ntwo\r\nthree\nfour\nfive\nsix\n")}
	for _, c := range []struct {
		ranges []Range
		want   string
	}{
		{nil, ""},
		{[]Range{{StartLine: 9}}, ""},
		{[]Range{{StartLine: 1}}, "Dockerfile:1|  1 | >>> one|  2 |     two|  3 |     three"},
		{[]Range{{StartLine: 4}}, "Dockerfile:4|  2 |     two|  3 |     three|  4 | >>> four|  5 |     five|  6 |     six"},
		{[]Range{{StartLine: 2, EndLine: 3}}, "Dockerfile:2|  1 |     one|  2 | >>> two|  3 | >>> three|  4 |     four"},
		{[]Range{{StartLine: 2}, {StartLine: 4, EndLine: 99}}, "Dockerfile:2|  1 |     one|  2 | >>> two|  3 |     three|  4 | >>> four|  5 | >>> five|  6 | >>> six|  7 | >>>"},
	} {
		got := src.Excerpt(c.ranges)
		var lines []string
		for _, l := range strings.Split(got, "\n") {
			if l = strings.TrimRight(l, " "); l != "" && !strings.HasPrefix(l, "-----") {
				lines = append(lines, strings.Replace(l, " ", "", 1))
			}
		}
		if got = strings.Join(lines, "|"); got != c.want {
			t.Errorf("%v:\n%s\nwant\n%s", c.ranges, got, c.want)
		}
	}
	hostile := Source{Name: "Dockerfile", Data: []byte("RUN\t\x1b]0;x\a\u009b2J")}.Excerpt([]Range{{StartLine: 1}})
	if strings.ContainsAny(hostile, "\x1b\a\u009b") || !strings.Contains(hostile, "RUN\t\ufffd]0;x\ufffd\ufffd2J\n") {
		t.Errorf("a terminal would obey: %q", hostile)
	}
}
