package cli

import (
	"cais.dev/cais/pkg/cli/image"
	"cais.dev/cais/pkg/cli/system"
)

// tree is every command, by the names under which Docker has it. A constructor
// is called only for what the command line names.
var tree = []node{
	{name: "images", of: "image ls", section: common, new: image.NewImages},
	{name: "rmi", of: "image rm", section: others, new: image.NewRmi},
	{name: "tag", of: "image tag", section: others, new: image.NewTag},
	{name: "image", section: management, short: "Manage images", children: []node{
		{name: "exists", of: "image exists", new: image.NewExists},
		{name: "inspect", of: "image inspect", new: image.NewInspect},
		{name: "ls", aliases: []string{"list"}, of: "image ls", new: image.NewImages},
		{name: "rm", aliases: []string{"remove"}, of: "image rm", new: image.NewRmi},
		{name: "tag", of: "image tag", new: image.NewTag},

		{name: "build", later: "making an image from a Dockerfile"},
		{name: "history", later: "the steps an image was made by"},
		{name: "import", later: "making an image from a tar of files"},
		{name: "prune", later: "removing unused images"},
		{name: "push", later: "sending an image to a registry"},
		{name: "save", later: "writing images to a tar"},
	}},

	{name: "completion", of: "completion", section: others, new: system.NewCompletion},
	{name: "info", of: "system info", section: common, new: system.NewInfo},
	{name: "inspect", of: "inspect", section: others, new: newInspect},
	{name: "unshare", of: "unshare", section: others, new: system.NewUnshare},
	{name: "version", of: "version", section: common, new: system.NewVersion},
	{name: "system", section: management, short: "Manage cais itself", children: []node{
		{name: "info", of: "system info", new: system.NewInfo},

		{name: "df", later: "what containers and images take on the disk"},
		{name: "events", later: "watching what happens"},
		{name: "prune", later: "removing what is unused"},
		{name: "reset", later: "removing everything"},
		{name: "service", later: "the API socket"},
	}},

	// What users of Docker and Podman know and what is not here.
	{name: "bake", later: "building several images from one file"},
	{name: "build", later: "making an image from a Dockerfile"},
	{name: "builder", later: "the build cache"},
	{name: "buildx", later: "BuildKit's extended builds"},
	{name: "checkpoint", later: "freezing a container to disk"},
	{name: "commit", later: "making an image from a container"},
	{name: "compose", later: "several containers from one file"},
	{name: "context", later: "working on other machines"},
	{name: "cp", later: "copying files into and out of containers"},
	{name: "diff", later: "what a container changed in its files"},
	{name: "events", later: "watching what happens"},
	{name: "export", later: "writing a container's files to a tar"},
	{name: "generate", later: "units and YAML made from containers"},
	{name: "healthcheck", later: "probing a container's health"},
	{name: "history", later: "the steps an image was made by"},
	{name: "import", later: "making an image from a tar of files"},
	{name: "kube", aliases: []string{"play"}, later: "running Kubernetes YAML"},
	{name: "login", later: "logging in to a registry"},
	{name: "logout", later: "logging out of a registry"},
	{name: "manifest", later: "lists of images for several platforms"},
	{name: "mount", later: "a container's files on the host"},
	{name: "network", later: "networks between containers"},
	{name: "pause", later: "freezing a container's processes"},
	{name: "pod", later: "containers that share namespaces"},
	{name: "port", later: "a container's published ports"},
	{name: "push", later: "sending an image to a registry"},
	{name: "rename", later: "giving a container another name"},
	{name: "restart", later: "stopping and starting a container"},
	{name: "save", later: "writing images to a tar"},
	{name: "search", later: "searching a registry"},
	{name: "stats", later: "what containers use"},
	{name: "top", later: "a container's processes"},
	{name: "umount", aliases: []string{"unmount"}, later: "a container's files on the host"},
	{name: "unpause", later: "thawing a container's processes"},
	{name: "untag", later: "taking names away from an image"},
	{name: "update", later: "changing a container's limits"},
	{name: "volume", later: "directories that outlive containers"},

	{name: "config", later: never},
	{name: "node", later: never},
	{name: "plugin", later: never},
	{name: "secret", later: never},
	{name: "service", later: never},
	{name: "stack", later: never},
	{name: "swarm", later: never},
	{name: "trust", later: never},
}
