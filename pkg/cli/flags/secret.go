package flags

import (
	"path"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/run/plan"
)

// parseSecrets reads --secret as podman has it: NAME[,type=mount|env,target=,uid=,gid=,mode=].
func parseSecrets(list []string) ([]plan.Secret, error) {
	var all []plan.Secret
	for _, text := range list {
		sec, err := parseSecret(text)
		if err != nil {
			return nil, err
		}
		all = append(all, sec)
	}
	return all, nil
}

func parseSecret(text string) (plan.Secret, error) {
	name, rest, _ := strings.Cut(text, ",")
	sec := plan.Secret{Name: strings.TrimPrefix(name, "source="), Mode: 0o444}
	file := "" // the option that only a file can have
	for rest != "" {
		var option string
		option, rest, _ = strings.Cut(rest, ",")
		key, value, _ := strings.Cut(option, "=")
		var err error
		var n int
		switch key {
		case "type":
			sec.Env = value == "env"
			if !sec.Env && value != "mount" {
				return sec, invalid("type %s is invalid: %s: give mount or env", value, text)
			}
		case "target":
			sec.Target = value
		case "uid", "gid":
			n, err = strconv.Atoi(value)
			if file = key; key == "uid" {
				sec.UID = n
			} else {
				sec.GID = n
			}
		case "mode":
			var mode uint64
			mode, err = strconv.ParseUint(value, 8, 9)
			file, sec.Mode = key, uint32(mode)
		default:
			return sec, invalid("option %s is invalid: %s: --secret takes NAME,type=,target=,uid=,gid=,mode=", option, text)
		}
		if err != nil || n < 0 {
			return sec, invalid("%s of secret %s is invalid: %q", key, sec.Name, value)
		}
	}
	switch {
	case sec.Name == "" || strings.Contains(sec.Name, "="):
		return sec, invalid("no secret is named: %q: --secret takes NAME,type=,target=,uid=,gid=,mode=", text)
	case sec.Env && file != "":
		return sec, invalid("%s of secret %s is for type=mount: %s", file, sec.Name, text)
	case sec.Env && strings.Contains(sec.Target, "="):
		return sec, invalid("target of secret %s is no variable's name: %q", sec.Name, sec.Target)
	case sec.Target == "":
		sec.Target = sec.Name
	}
	if !sec.Env && !path.IsAbs(sec.Target) {
		sec.Target = path.Join("/run/secrets", sec.Target)
	}
	return sec, nil
}
