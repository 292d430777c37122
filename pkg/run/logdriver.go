package run

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/container"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/logs"
	"cais.dev/cais/pkg/logs/forward"
	"cais.dev/cais/pkg/run/plan"
	"cais.dev/cais/pkg/run/wire"
	"cais.dev/cais/pkg/tmpl"
	"cais.dev/cais/pkg/units"
)

// journal is the socket of systemd's journal.
const journal = "/run/systemd/journal/socket"

// logOf turns --log-driver and --log-opt into what the monitor writes and sends.
// What a driver sends elsewhere is kept in a file too, as Docker does, so that
// `logs` can read it. argv starts this program in [CleanupRole].
func logOf(rec *container.Record, name string, argv func(words ...string) []string) (wire.Log, error) {
	req := rec.Request
	if req.LogDriver == "none" {
		return wire.Log{Driver: "none"}, nil
	}
	log := wire.Log{Driver: "json-file", Path: rec.LogPath, MaxSize: 20 << 20, MaxFile: 5}
	if rec.LogPath == "" {
		log.Driver = "forward"
	}
	for key, value := range req.LogOpts {
		var err error
		switch strings.TrimPrefix(key, "cache-") {
		case "max-size":
			log.MaxSize, err = units.ParseDecimalSize(value)
			if value == "-1" {
				log.MaxSize, err = 0, nil
			}
		case "max-file":
			log.MaxFile, err = strconv.Atoi(value)
		}
		if err != nil {
			return log, errs.E("log option "+key, errs.Invalid, err)
		}
	}
	if rec.LogPath != "" && plan.CompressesLog(req.LogDriver, req.LogOpts) {
		log.Compress = argv(helperGzip)
	}
	attrs, err := logAttrs(rec)
	if err != nil {
		return log, err
	}
	tag := ""
	if t := req.LogOpts["tag"]; t != "" || forwards(req.LogDriver) {
		if tag, err = logTag(t, rec, name); err != nil {
			return log, err
		}
	}
	switch req.LogDriver {
	case "journald":
		log.Forward = wire.Forward{Net: "journald", Path: journal, Fields: journalFields(rec, name, tag, attrs)}
		if _, err := os.Stat(journal); err != nil {
			return log, errs.WithHint(errs.New(errs.Unsupported, "journald is not enabled on this host"), "Use --log-driver local.")
		}
	case "syslog":
		if log.Forward, err = syslogOf(req.LogOpts, argv); err != nil {
			return log, err
		}
		log.Forward.Tag = tag
	}
	if tag != "" && !forwards(req.LogDriver) {
		attrs["tag"] = tag
	}
	if len(attrs) > 0 {
		b, err := json.Marshal(attrs)
		if err != nil {
			return log, err
		}
		log.Attrs = string(b)
	}
	return log, nil
}

func forwards(driver string) bool { return driver == "journald" || driver == "syslog" }

// logAttrs are the labels and variables that --log-opt labels, env and their
// regular expressions choose.
func logAttrs(rec *container.Record) (map[string]string, error) {
	attrs, opts := map[string]string{}, rec.Request.LogOpts
	env := map[string]string{}
	for _, list := range [][]string{rec.Image.Env, rec.Request.Env} {
		for _, e := range list {
			if k, v, ok := strings.Cut(e, "="); ok {
				env[k] = v
			}
		}
	}
	pick := func(of map[string]string, names, pattern string) error {
		for name := range strings.SplitSeq(names, ",") {
			if v, ok := of[strings.TrimSpace(name)]; ok {
				attrs[strings.TrimSpace(name)] = v
			}
		}
		if pattern == "" {
			return nil
		}
		re, err := regexp.Compile(pattern)
		if err != nil {
			return errs.E("log option", errs.Invalid, err)
		}
		for name, v := range of {
			if re.MatchString(name) {
				attrs[name] = v
			}
		}
		return nil
	}
	return attrs, errors.Join(pick(rec.Labels(), opts["labels"], opts["labels-regex"]), pick(env, opts["env"], opts["env-regex"]))
}

// logTag fills in --log-opt tag, whose names are Docker's.
func logTag(text string, rec *container.Record, name string) (string, error) {
	if text == "" {
		text = "{{.ID}}"
	}
	t, err := tmpl.Parse(text, nil)
	if err != nil {
		return "", errs.E("log option tag", errs.Invalid, err)
	}
	var b strings.Builder
	err = t.Execute(&b, map[string]string{
		"ID": container.ShortID(rec.ID), "FullID": rec.ID, "Name": name, "FullName": name, "ImageName": rec.ImageRef,
		"ImageID": container.ShortID(rec.ImageID), "ImageFullID": "sha256:" + rec.ImageID,
		"Command": strings.Join(append([]string{rec.Path}, rec.Args...), " "), "DaemonName": "docker",
	})
	if err != nil {
		return "", errs.E("log option tag", errs.Invalid, err)
	}
	return strings.Join(strings.Fields(b.String()), "_"), nil // one word, of one line
}

// journalFields are what each entry of the journal carries, in Docker's names.
func journalFields(rec *container.Record, name, tag string, attrs map[string]string) string {
	var b []byte
	for _, f := range [][2]string{
		{"CONTAINER_ID", container.ShortID(rec.ID)}, {"CONTAINER_ID_FULL", rec.ID}, {"CONTAINER_NAME", name},
		{"CONTAINER_TAG", tag}, {"IMAGE_NAME", rec.ImageRef}, {"SYSLOG_IDENTIFIER", tag},
	} {
		b = forward.AppendField(b, f[0], f[1])
	}
	for k, v := range attrs {
		if k = journalName(k); k != "" {
			b = forward.AppendField(b, k, v)
		}
	}
	return string(b)
}

// journalName makes a name that journald accepts from a client: capitals, digits
// and underscores, no underscore first.
func journalName(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, s)
	s = strings.TrimLeft(s, "_0123456789")
	return s[:min(len(s), 64)]
}

// syslogOf finds the server.
func syslogOf(opts map[string]string, argv func(words ...string) []string) (wire.Forward, error) {
	s, err := plan.ParseSyslog(opts)
	if err != nil {
		return wire.Forward{}, err
	}
	f := wire.Forward{Net: s.Net, Format: s.Format, Facility: s.Facility}
	if f.Hostname, err = os.Hostname(); err != nil {
		return f, err
	}
	switch s.Net {
	case "":
		for _, path := range []string{"/dev/log", "/var/run/syslog", "/var/run/log"} {
			if _, err := os.Stat(path); err == nil {
				f.Net, f.Path = "unixgram", path
				return f, nil
			}
		}
		return f, errs.WithHint(errs.New(errs.Unsupported, "failed to initialize logging driver: Unix syslog delivery error"),
			"This machine has no syslog server: name one with --log-opt syslog-address=udp://HOST:514.")
	case "unix", "unixgram":
		f.Path = s.Address
	case forward.TLS:
		job, err := json.Marshal(logs.TLS{Address: s.Address, CA: s.CA, Cert: s.Cert, Key: s.Key, SkipVerify: s.SkipVerify})
		f.Argv = argv(helperSyslog, string(job))
		return f, err
	case "udp":
		a, err := net.ResolveUDPAddr("udp", s.Address)
		if err != nil {
			return f, errs.E("syslog-address", errs.Invalid, err)
		}
		f.IP, f.Port = a.IP, a.Port
	case "tcp":
		a, err := net.ResolveTCPAddr("tcp", s.Address)
		if err != nil {
			return f, errs.E("syslog-address", errs.Invalid, err)
		}
		f.IP, f.Port = a.IP, a.Port
	}
	if ip := net.IP(f.IP).To4(); ip != nil {
		f.IP = ip
	}
	if f.Path == "" && len(f.IP) == 0 {
		f.IP = []byte{127, 0, 0, 1}
	}
	return f, nil
}
