package plan

import (
	"fmt"
	"net"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/pkg/units"
)

// Syslog is what --log-opt syslog-* ask for.
type Syslog struct {
	Net      string // udp, tcp, tcp+tls, unix or unixgram; empty: the machine's own server
	Address  string // host:port, or a socket's path
	Facility int    // 0–23
	Format   string // "", rfc3164, rfc5424, rfc5424micro

	CA, Cert, Key string // files, for tcp+tls
	SkipVerify    bool
}

// ParseSyslog reads the options of the log driver syslog.
func ParseSyslog(opts map[string]string) (s Syslog, err error) {
	s.Format = opts["syslog-format"]
	if !slices.Contains([]string{"", "rfc3164", "rfc5424", "rfc5424micro"}, s.Format) {
		return s, errs.New(errs.Invalid, "Invalid syslog format")
	}
	if s.Facility, err = facility(opts["syslog-facility"]); err != nil {
		return s, err
	}
	s.CA, s.Cert, s.Key = opts["syslog-tls-ca-cert"], opts["syslog-tls-cert"], opts["syslog-tls-key"]
	if skip, ok := opts["syslog-tls-skip-verify"]; ok && skip != "" { // Docker takes any value for yes
		if s.SkipVerify, err = strconv.ParseBool(skip); err != nil {
			return s, errs.New(errs.Invalid, "invalid value for syslog-tls-skip-verify: "+skip)
		}
	}
	address := opts["syslog-address"]
	if address == "" {
		return s, nil
	}
	u, err := url.Parse(address)
	if err != nil {
		return s, errs.E("syslog-address", errs.Invalid, err)
	}
	s.Net = u.Scheme
	switch u.Scheme {
	case "unix", "unixgram":
		if s.Address = u.Path; s.Address == "" {
			return s, errs.New(errs.Invalid, "syslog-address "+address+" names no socket")
		}
	case "udp", "tcp", "tcp+tls":
		s.Address = u.Host
		if _, _, err := net.SplitHostPort(u.Host); err != nil {
			s.Address = net.JoinHostPort(strings.Trim(u.Host, "[]"), "514")
		}
	default:
		return s, errs.New(errs.Invalid, "syslog-address should be in form proto://address, got "+address)
	}
	return s, nil
}

// facility reads a facility's name, as in RFC 3164, or its number.
func facility(s string) (int, error) {
	if s == "" {
		return 3, nil // daemon
	}
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 23 {
		return n, nil
	}
	names := []string{"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"}
	if i := slices.Index(names, s); i >= 0 {
		return i, nil
	}
	if n, ok := strings.CutPrefix(s, "local"); ok && len(n) == 1 && n[0] >= '0' && n[0] <= '7' {
		return 16 + int(n[0]-'0'), nil
	}
	return 0, errs.New(errs.Invalid, "invalid syslog facility")
}

// KeepsLog reports whether the monitor keeps the output in a file, which is what
// `logs` reads.
func KeepsLog(driver string, opts map[string]string) bool {
	off, _ := strconv.ParseBool(opts["cache-disabled"]) // CheckLog has looked at it
	return driver != "none" && !off
}

// CheckLog knows the log drivers and their options.
func CheckLog(driver string, opts map[string]string) error {
	var known []string
	cache := []string{"cache-disabled", "cache-max-size", "cache-max-file", "cache-compress"}
	chosen := []string{"tag", "labels", "labels-regex", "env", "env-regex"}
	file := []string{"max-size", "max-file", "compress"}
	// Of all drivers: the container never waits, so "blocking" is the same as its opposite.
	mode := []string{"mode", "max-buffer-size"}
	switch driver {
	case "", "json-file", "k8s-file":
		known = slices.Concat(file, chosen)
	case "local": // the same files: what "local" writes is its own affair
		known = slices.Concat(file, chosen)
	case "journald":
		known = slices.Concat(chosen, cache)
	case "syslog":
		known = slices.Concat(chosen, cache, []string{"syslog-address", "syslog-facility", "syslog-format", "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key", "syslog-tls-skip-verify"})
		if _, err := ParseSyslog(opts); err != nil {
			return err
		}
	case "none":
		if len(opts) > 0 {
			return errs.New(errs.Invalid, "invalid logging opts for driver none")
		}
	case "passthrough", "passthrough-tty", "gelf", "fluentd", "awslogs", "splunk", "etwlogs", "gcplogs", "logentries":
		return errs.New(errs.Unsupported, "--log-driver "+driver+" is not supported: there are json-file, local, journald, syslog and none")
	default:
		return errs.New(errs.Invalid, "unknown log driver: "+driver)
	}
	for key, val := range opts {
		if !slices.Contains(known, key) && !slices.Contains(mode, key) {
			return errs.New(errs.Invalid, fmt.Sprintf("unknown log opt '%s' for %s log driver", key, orDefault(driver)))
		}
		if err := checkLogOpt(key, val); err != nil {
			return err
		}
	}
	if _, ok := opts["max-buffer-size"]; ok && opts["mode"] != "non-blocking" {
		return errs.New(errs.Invalid, "logger: max-buffer-size option is only supported with 'mode=non-blocking'")
	}
	for _, cache := range []string{"", "cache-"} {
		if on, _ := strconv.ParseBool(opts[cache+"compress"]); on && !rotates(opts, cache) {
			return errs.New(errs.Invalid, cache+"compress cannot be true when max-file is less than 2 or max-size is not set")
		}
	}
	return nil
}

// rotates reports whether there are files but the one that is written.
func rotates(opts map[string]string, cache string) bool {
	return opts[cache+"max-file"] != "1" && opts[cache+"max-size"] != "-1"
}

// CompressesLog reports whether rotated files are compressed. What is not Docker's
// json-file is kept as its driver local keeps it, which does so unless told not to.
func CompressesLog(driver string, opts map[string]string) bool {
	cache, by := "", driver == "local"
	if driver == "journald" || driver == "syslog" {
		cache, by = "cache-", true
	}
	if v, ok := opts[cache+"compress"]; ok {
		by, _ = strconv.ParseBool(v) // CheckLog has looked at it
	}
	return by && rotates(opts, cache)
}

func orDefault(driver string) string {
	if driver == "" {
		return "json-file"
	}
	return driver
}

func checkLogOpt(key, val string) error {
	switch key {
	case "mode":
		if val != "" && val != "blocking" && val != "non-blocking" {
			return errs.New(errs.Invalid, "logger: logging mode not supported: "+val)
		}
	case "max-buffer-size":
		if _, err := units.ParseSize(val); err != nil {
			return errs.E("error parsing option max-buffer-size", errs.Invalid, err)
		}
	case "max-size", "cache-max-size":
		if n, err := units.ParseDecimalSize(val); val != "-1" && (err != nil || n == 0) {
			return errs.New(errs.Invalid, "invalid value for "+key+": "+val)
		}
	case "max-file", "cache-max-file":
		if n, err := strconv.Atoi(val); err != nil || n < 1 {
			return errs.New(errs.Invalid, fmt.Sprintf("%s must be a positive number, not %q", key, val))
		}
	case "compress", "cache-compress", "cache-disabled":
		if _, err := strconv.ParseBool(val); err != nil {
			return errs.New(errs.Invalid, "invalid value for "+key+": "+val)
		}
	case "syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key":
		if !path.IsAbs(val) { // it is read again when the container starts again
			return errs.New(errs.Invalid, fmt.Sprintf("%s must be an absolute path, not %q", key, val))
		}
	case "labels-regex", "env-regex":
		if _, err := regexp.Compile(val); err != nil {
			return errs.E(key, errs.Invalid, err)
		}
	}
	return nil
}
