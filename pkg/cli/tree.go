package cli

import (
	"cais.dev/cais/pkg/cli/system"
)

// tree is every command, by the names under which Docker has it. A constructor
// is called only for what the command line names.
var tree = []node{
	{name: "version", section: others, new: system.NewVersion},

	{name: "compose", section: management, later: "several containers from one file"},
	{name: "swarm", later: never},
	{name: "service", later: never},
	{name: "node", later: never},
	{name: "stack", later: never},
	{name: "config", later: never},
	{name: "secret", later: never},
	{name: "plugin", later: never},
	{name: "trust", later: never},
}
