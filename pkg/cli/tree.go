package cli

import (
	"cais.dev/cais/pkg/cli/build"
	"cais.dev/cais/pkg/cli/container"
	"cais.dev/cais/pkg/cli/image"
	"cais.dev/cais/pkg/cli/network"
	"cais.dev/cais/pkg/cli/oci"
	"cais.dev/cais/pkg/cli/system"
	"cais.dev/cais/pkg/cli/volume"
)

// tree is every command, by the names under which Docker has it. A constructor
// is called only for what the command line names.
var tree = []node{
	{name: "attach", of: "container attach", section: others, new: container.NewAttach},
	{name: "create", of: "container create", section: others, new: container.NewCreate},
	{name: "exec", of: "container exec", section: common, new: container.NewExec},
	{name: "kill", of: "container kill", section: others, new: container.NewKill},
	{name: "logs", of: "container logs", section: others, new: container.NewLogs},
	{name: "pause", of: "container pause", section: others, new: container.NewPause},
	{name: "port", of: "container port", section: others, quick: true, new: container.NewPort},
	{name: "ps", of: "container ls", section: common, quick: true, new: container.NewPs},
	{name: "rename", of: "container rename", section: others, new: container.NewRename},
	{name: "restart", of: "container restart", section: others, new: container.NewRestart},
	{name: "rm", of: "container rm", section: others, new: container.NewRm},
	{name: "run", of: "container run", section: common, new: container.NewRun},
	{name: "start", of: "container start", section: others, new: container.NewStart},
	{name: "stats", of: "container stats", section: others, new: container.NewStats},
	{name: "stop", of: "container stop", section: others, new: container.NewStop},
	{name: "top", of: "container top", section: others, new: container.NewTop},
	{name: "unpause", of: "container unpause", section: others, new: container.NewUnpause},
	{name: "update", of: "container update", section: others, new: container.NewUpdate},
	{name: "wait", of: "container wait", section: others, new: container.NewWait},
	{name: "container", section: management, short: "Manage containers", children: []node{
		{name: "attach", of: "container attach", new: container.NewAttach},
		{name: "create", of: "container create", new: container.NewCreate},
		{name: "exec", of: "container exec", new: container.NewExec},
		{name: "exists", of: "container exists", quick: true, new: container.NewExists},
		{name: "inspect", of: "container inspect", quick: true, new: container.NewInspect},
		{name: "kill", of: "container kill", new: container.NewKill},
		{name: "logs", of: "container logs", new: container.NewLogs},
		{name: "ls", aliases: []string{"list", "ps"}, of: "container ls", quick: true, new: container.NewPs},
		{name: "pause", of: "container pause", new: container.NewPause},
		{name: "port", of: "container port", quick: true, new: container.NewPort},
		{name: "prune", of: "container prune", new: container.NewPrune},
		{name: "rename", of: "container rename", new: container.NewRename},
		{name: "restart", of: "container restart", new: container.NewRestart},
		{name: "rm", aliases: []string{"remove"}, of: "container rm", new: container.NewRm},
		{name: "run", of: "container run", new: container.NewRun},
		{name: "start", of: "container start", new: container.NewStart},
		{name: "stats", of: "container stats", new: container.NewStats},
		{name: "stop", of: "container stop", new: container.NewStop},
		{name: "top", of: "container top", new: container.NewTop},
		{name: "unpause", of: "container unpause", new: container.NewUnpause},
		{name: "update", of: "container update", new: container.NewUpdate},
		{name: "wait", of: "container wait", new: container.NewWait},

		{name: "commit", of: "container commit", new: image.NewCommit},
		{name: "cp", later: "copying files into and out of containers"},
		{name: "diff", later: "what a container changed in its files"},
		{name: "export", later: "writing a container's files to a tar"},
	}},

	{name: "images", of: "image ls", section: common, quick: true, new: image.NewImages},
	{name: "load", of: "image load", section: others, new: image.NewLoad},
	{name: "pull", of: "image pull", section: common, new: image.NewPull},
	{name: "commit", of: "container commit", section: others, new: image.NewCommit},
	{name: "history", of: "image history", section: others, quick: true, new: image.NewHistory},
	{name: "import", of: "image import", section: others, new: image.NewImport},
	{name: "untag", of: "image untag", section: others, new: image.NewUntag},
	{name: "push", of: "image push", section: common, new: image.NewPush},
	{name: "rmi", of: "image rm", section: others, new: image.NewRmi},
	{name: "save", of: "image save", section: others, new: image.NewSave},
	{name: "tag", of: "image tag", section: others, new: image.NewTag},
	{name: "build", of: "image build", section: common, new: build.NewBuild},
	{name: "builder", section: management, short: "Manage builds and their cache", children: []node{
		{name: "build", of: "image build", new: build.NewBuild},
	}},
	{name: "buildx", section: management, short: "Docker's extended builds", children: []node{
		{name: "build", aliases: []string{"b"}, of: "image build", new: build.NewBuild},
	}},
	{name: "image", section: management, short: "Manage images", children: []node{
		{name: "copy", of: "image copy", new: image.NewCopy},
		{name: "exists", of: "image exists", quick: true, new: image.NewExists},
		{name: "inspect", of: "image inspect", quick: true, new: image.NewInspect},
		{name: "ls", aliases: []string{"list"}, of: "image ls", quick: true, new: image.NewImages},
		{name: "load", of: "image load", new: image.NewLoad},
		{name: "pull", of: "image pull", new: image.NewPull},
		{name: "history", of: "image history", quick: true, new: image.NewHistory},
		{name: "import", of: "image import", new: image.NewImport},
		{name: "untag", of: "image untag", new: image.NewUntag},
		{name: "prune", of: "image prune", new: image.NewPrune},
		{name: "push", of: "image push", new: image.NewPush},
		{name: "rm", aliases: []string{"remove"}, of: "image rm", new: image.NewRmi},
		{name: "save", of: "image save", new: image.NewSave},
		{name: "tag", of: "image tag", new: image.NewTag},

		{name: "build", of: "image build", new: build.NewBuild},
	}},

	{name: "network", section: management, short: "Manage networks", children: []node{
		{name: "connect", of: "network connect", new: network.NewConnect},
		{name: "create", of: "network create", new: network.NewCreate},
		{name: "disconnect", of: "network disconnect", new: network.NewDisconnect},
		{name: "exists", of: "network exists", quick: true, new: network.NewExists},
		{name: "inspect", of: "network inspect", quick: true, new: network.NewInspect},
		{name: "ls", aliases: []string{"list"}, of: "network ls", quick: true, new: network.NewLs},
		{name: "prune", of: "network prune", new: network.NewPrune},
		{name: "rm", aliases: []string{"remove"}, of: "network rm", new: network.NewRm},
	}},

	{name: "volume", section: management, short: "Manage volumes", children: []node{
		{name: "create", of: "volume create", new: volume.NewCreate},
		{name: "exists", of: "volume exists", quick: true, new: volume.NewExists},
		{name: "inspect", of: "volume inspect", quick: true, new: volume.NewInspect},
		{name: "ls", aliases: []string{"list"}, of: "volume ls", quick: true, new: volume.NewLs},
		{name: "prune", of: "volume prune", new: volume.NewPrune},
		{name: "rm", aliases: []string{"remove"}, of: "volume rm", new: volume.NewRm},

		{name: "update", later: never},
	}},

	{name: "completion", of: "completion", section: others, quick: true, new: system.NewCompletion},
	{name: "events", of: "system events", section: others, new: system.NewEvents},
	{name: "info", of: "system info", section: common, quick: true, new: system.NewInfo},
	{name: "login", of: "login", section: common, new: system.NewLogin},
	{name: "logout", of: "logout", section: common, new: system.NewLogout},
	{name: "inspect", of: "inspect", section: others, quick: true, new: newInspect},
	{name: "doctor", of: "doctor", section: others, quick: true, new: system.NewDoctor},
	{name: "oci", of: "oci", section: others, quick: true, new: oci.New},
	{name: "unshare", of: "unshare", section: others, new: system.NewUnshare},
	{name: "version", of: "version", section: common, quick: true, new: system.NewVersion},
	{name: "system", section: management, short: "Manage cais itself", children: []node{
		{name: "events", of: "system events", new: system.NewEvents},
		{name: "boot", short: "Containers after a reboot", children: []node{
			{name: "disable", of: "system boot disable", new: system.NewBootDisable},
			{name: "enable", of: "system boot enable", new: system.NewBootEnable},
			{name: "start", of: "system boot start", new: system.NewBootStart},
			{name: "status", of: "system boot status", new: system.NewBootStatus},
			{name: "stop", of: "system boot stop", new: system.NewBootStop},
		}},
		{name: "check", of: "system check", new: newCheck},
		{name: "df", of: "system df", new: newDf},
		{name: "info", of: "system info", quick: true, new: system.NewInfo},
		{name: "prune", of: "system prune", new: newSystemPrune},
		{name: "reset", of: "system reset", new: newReset},

		{name: "service", later: "the API socket"},
	}},

	// What users of Docker and Podman know and what is not here.
	{name: "bake", later: "building several images from one file"},
	{name: "checkpoint", later: "freezing a container to disk"},
	{name: "compose", later: "several containers from one file"},
	{name: "context", later: "working on other machines"},
	{name: "cp", later: "copying files into and out of containers"},
	{name: "diff", later: "what a container changed in its files"},
	{name: "export", later: "writing a container's files to a tar"},
	{name: "generate", later: "units and YAML made from containers"},
	{name: "healthcheck", later: "probing a container's health"},
	{name: "kube", aliases: []string{"play"}, later: "running Kubernetes YAML"},
	{name: "manifest", later: "lists of images for several platforms"},
	{name: "mount", later: "a container's files on the host"},
	{name: "pod", later: "containers that share namespaces"},
	{name: "search", later: "searching a registry"},
	{name: "umount", aliases: []string{"unmount"}, later: "a container's files on the host"},

	{name: "config", later: never},
	{name: "node", later: never},
	{name: "plugin", later: never},
	{name: "secret", later: never},
	{name: "service", later: never},
	{name: "stack", later: never},
	{name: "swarm", later: never},
	{name: "trust", later: never},
}
