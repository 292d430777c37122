package dockerfile

import (
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"cais.dev/cais/pkg/oci"
)

// platformArgs are the arguments that every Dockerfile has before its first line.
func platformArgs(build, target oci.Platform, stage string, given map[string]string) environ {
	if stage == "" {
		stage = "default"
	}
	var env environ
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", build.String()},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", target.String()},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	} {
		if v, ok := given[kv[0]]; ok {
			kv[1] = v
		}
		env = env.with(kv[0], kv[1])
	}
	return env
}

// globalArgs adds what ARG says before the first FROM, as far as given does not
// say otherwise.
func globalArgs(env environ, lex *shell.Lex, cmds []instructions.ArgCommand, given map[string]string) (environ, map[string]argInfo, error) {
	all := map[string]argInfo{}
	for _, cmd := range cmds {
		for _, arg := range cmd.Args {
			info := argInfo{def: arg, lines: cmd.Location()}
			value := arg.Value
			if v, ok := given[arg.Key]; ok {
				value = &v
			} else if value != nil {
				if err := bounded(*value, env); err != nil {
					return nil, nil, parser.WithLocation(err, cmd.Location())
				}
				r, err := lex.ProcessWordWithMatches(*value, env)
				if err != nil {
					return nil, nil, parser.WithLocation(err, cmd.Location())
				}
				value = &r.Result
				info.needs = r.Matched
				// ARG a=$a-x: what the earlier a needed is needed still.
				if _, ok := info.needs[arg.Key]; ok {
					delete(info.needs, arg.Key)
					maps.Copy(info.needs, all[arg.Key].needs)
				}
			}
			if value != nil {
				env = env.with(arg.Key, *value)
				info.value = *value
			}
			all[arg.Key] = info
		}
	}
	return env, all, nil
}

// proxyEnv has the proxies that were given as build arguments, in both the
// spellings that programs look for.
func proxyEnv(given map[string]string) []string {
	var env environ
	for _, k := range slices.Sorted(maps.Keys(given)) {
		switch low := strings.ToLower(k); low {
		case "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy":
			if v := given[k]; v != "" {
				env = env.with(strings.ToUpper(low), v).with(low, v)
			}
		}
	}
	return env
}
