// Package graph is a build as values: which file systems there are, what makes
// each of them from which others, and what the resulting images say of
// themselves. A front end (pkg/build/dockerfile) makes a graph, an executor
// carries it out. Everything that depends on the Dockerfile is decided here;
// nothing here opens, hashes or runs anything.
//
//	Image ──► Exec ──► Copy ──► Result            each arrow: "is the base of"
//	Local ─────────────┘ (Source.From)            a node makes one file system and,
//	Git, HTTP ─────────┘                          unless it is a source, one layer
//
// Nodes stand in an order in which inputs come before what needs them, no node is
// there twice, and all of them are needed by a result.
package graph

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cais.dev/cais/pkg/oci"
)

// ID is a node's index in Graph.Nodes.
type ID int

// None is the empty file system, "scratch": no node, no layer.
const None ID = -1

// Graph is what one build makes.
type Graph struct {
	Nodes   []Node
	Results []Result // one for each platform, in the order they were asked for
	Source  Source   // the Dockerfile, for errors
}

// Node makes one file system.
type Node struct {
	Op Op

	// Platform is what the files are for; of an Exec also what must be able to run.
	Platform oci.Platform

	// NoCache says that no earlier result may be used (--no-cache,
	// --no-cache-filter). The result is stored for later builds all the same.
	NoCache bool

	// Epoch, if set, is SOURCE_DATE_EPOCH: times that the node makes up (files
	// without a source, created directories) are this. Not part of any key.
	Epoch *time.Time

	// What follows is for people, and not part of any key.

	// Name is the line in the progress view: "[build 2/5] RUN make",
	// "[internal] load build context".
	Name string
	// Stage is the name of the stage that the node belongs to, its number if it has none;
	// empty for sources.
	Stage string
	// Command is what history says made the layer, without its comment: "RUN /bin/sh -c make".
	Command string
	// Lines are where the Dockerfile says so.
	Lines []Range
}

// Op is what a node does: *Image, *Local, *Git, *HTTP, *Exec, *Copy, *Mkdir or *Merge.
type Op interface {
	// Inputs are the nodes whose file systems are read, the base first (None
	// if it is scratch), each as often as it is used.
	Inputs() []ID
	// Base is the node whose layers are below this one's; None for sources.
	Base() ID
}

// Result is one image to be made.
type Result struct {
	Platform oci.Platform

	// Node has the files; None if the image is empty.
	Node ID

	// Base is the image at the bottom, None if the image is made from scratch. Its
	// layers are the first of the result; Config.RootFS has their diffIDs.
	Base ID

	// Layers are the nodes that make the layers above Base, bottom first: as
	// many as Config.History has entries that are not EmptyLayer after the
	// first BaseHistory ones.
	Layers []ID

	// Config is the image's config as far as the Dockerfile decides it. What is
	// left: RootFS.DiffIDs of Layers, Created if zero (the time of the build),
	// and the Created of the history's entries that have none: for a layer when it was
	// made, for the others like Created. An inherited history that has fewer
	// entries than layers, or none, must be filled up, see BaseHistory.
	Config oci.Image

	// BaseHistory is how many entries of Config.History came with Base.
	BaseHistory int

	// Epoch is SOURCE_DATE_EPOCH: the time for Created and all new history,
	// which is then set already. nil: none was given.
	Epoch *time.Time
}

// Builder makes a Graph. The zero value is ready.
type Builder struct {
	nodes []Node
	known map[string]ID
}

// Add returns the node that does what n does, which is n unless there is one
// already: then n's name and place are dropped. The inputs must have been added
// before.
func (b *Builder) Add(n Node) ID {
	key := n.identity()
	if id, ok := b.known[key]; ok {
		return id
	}
	if b.known == nil {
		b.known = map[string]ID{}
	}
	id := ID(len(b.nodes))
	b.nodes, b.known[key] = append(b.nodes, n), id
	return id
}

// Node returns a node that was added.
func (b *Builder) Node(id ID) Node { return b.nodes[id] }

// identity is equal for nodes that do the same.
func (n Node) identity() string {
	data, err := json.Marshal(struct {
		Op       Op
		Platform oci.Platform
		NoCache  bool
		Epoch    *time.Time
	}{n.Op, n.Platform, n.NoCache, n.Epoch})
	if err != nil { // plain values cannot fail; if one does, it has no twin
		return n.Name
	}
	return fmt.Sprintf("%T%s", n.Op, data)
}

// Graph returns what results need, in order, with the results' ids changed
// accordingly.
func (b *Builder) Graph(results []Result, src Source) *Graph {
	needed := make([]bool, len(b.nodes))
	for _, r := range results {
		if r.Node != None {
			needed[r.Node] = true
		}
	}
	for i := len(b.nodes) - 1; i >= 0; i-- {
		if needed[i] {
			for _, in := range b.nodes[i].Op.Inputs() {
				if in != None {
					needed[in] = true
				}
			}
		}
	}
	moved := make([]ID, len(b.nodes))
	g := &Graph{Source: src}
	at := func(id ID) ID {
		if id == None {
			return None
		}
		return moved[id]
	}
	for i, n := range b.nodes {
		if !needed[i] {
			moved[i] = None
			continue
		}
		n.Op = renumber(n.Op, at)
		moved[i] = ID(len(g.Nodes))
		g.Nodes = append(g.Nodes, n)
	}
	for _, r := range results {
		r.Node, r.Base, r.Layers = at(r.Node), at(r.Base), slices.Clone(r.Layers)
		for i, l := range r.Layers {
			r.Layers[i] = at(l)
		}
		g.Results = append(g.Results, r)
	}
	return g
}

// Users returns for each node the nodes that read it.
func (g *Graph) Users() [][]ID {
	users := make([][]ID, len(g.Nodes))
	for i, n := range g.Nodes {
		for _, in := range n.Op.Inputs() {
			if in != None && !slices.Contains(users[in], ID(i)) {
				users[in] = append(users[in], ID(i))
			}
		}
	}
	return users
}
