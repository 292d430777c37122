package docker

import "strings"

// Mode is a namespace of a container: host, container:NAME, private or empty.
// Its methods are Docker's, which templates call: {{.HostConfig.PidMode.IsHost}}.
type Mode string

// Method is what templates call.
func (m Mode) Method(name string) any {
	_, of, shared := strings.Cut(string(m), "container:")
	switch name {
	case "IsHost":
		return is(m == "host")
	case "IsPrivate":
		return is(m == "" || m == "private")
	case "IsContainer":
		return is(shared)
	case "IsShareable":
		return is(m == "shareable")
	case "IsNone":
		return is(m == "none")
	case "IsEmpty":
		return is(m == "")
	case "Container":
		return func() string { return of }
	}
	return nil
}

// NetworkMode is the network that a container was made with.
type NetworkMode string

// Method is what templates call.
func (n NetworkMode) Method(name string) any {
	m := Mode(n)
	_, of, shared := strings.Cut(string(n), "container:")
	own := m == "bridge" || m == "default" || m == "host" || m == "none" || shared
	switch name {
	case "IsPrivate":
		return is(m != "host" && !shared)
	case "IsBridge":
		return is(m == "bridge")
	case "IsDefault":
		return is(m == "default")
	case "IsUserDefined":
		return is(!own)
	case "IsHost", "IsNone", "IsContainer":
		return m.Method(name)
	case "ConnectedContainer":
		return func() string { return of }
	case "UserDefined":
		return func() string {
			if own {
				return ""
			}
			return string(n)
		}
	case "NetworkName":
		return func() string {
			if shared {
				return "container"
			}
			return string(n)
		}
	}
	return nil
}

// Method is what templates call.
func (p RestartPolicy) Method(name string) any {
	switch name {
	case "IsNone":
		return is(p.Name == "" || p.Name == "no")
	case "IsAlways":
		return is(p.Name == "always")
	case "IsOnFailure":
		return is(p.Name == "on-failure")
	case "IsUnlessStopped":
		return is(p.Name == "unless-stopped")
	}
	return nil
}

func is(b bool) func() bool { return func() bool { return b } }
