// Package units prints and reads sizes, durations and ages as Docker does.
package units

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Size prints bytes in powers of 1000 with three significant digits: "1.98MB".
func Size(bytes int64) string {
	return scale(float64(bytes), 1000, "%.3g%s", "B", "kB", "MB", "GB", "TB", "PB", "EB")
}

// Size4 is Size with four significant digits, as Docker prints sums: "198.4MB".
func Size4(bytes int64) string {
	return scale(float64(bytes), 1000, "%.4g%s", "B", "kB", "MB", "GB", "TB", "PB", "EB")
}

// BinarySize prints bytes in powers of 1024 with four significant digits:
// "23.54GiB".
func BinarySize(bytes int64) string {
	return scale(float64(bytes), 1024, "%.4g%s", "B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
}

func scale(v, base float64, format string, names ...string) string {
	i := 0
	for math.Abs(v) >= base && i < len(names)-1 {
		v /= base
		i++
	}
	text := fmt.Sprintf(format, v, names[i])
	if strings.Contains(text, "e+") && i < len(names)-1 { // rounded up to the next unit: 999.9kB
		return fmt.Sprintf(format, v/base, names[i+1])
	}
	return text
}

// ParseSize reads a size as Docker's --memory does: a number, perhaps with a
// fraction, and b, k, m, g, t or p in any case, perhaps followed by b or ib,
// all in powers of 1024. "-1" is the caller's affair: no sign is read here.
func ParseSize(s string) (int64, error) { return parseSize(s, 1024) }

// ParseDecimalSize reads a size as Docker's --log-opt max-size does: in powers of
// 1000.
func ParseDecimalSize(s string) (int64, error) { return parseSize(s, 1000) }

func parseSize(s string, base float64) (int64, error) {
	bad := fmt.Errorf("invalid size: '%s'", s)
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, suffix := s[:end], strings.ToLower(strings.TrimPrefix(s[end:], " "))
	if number == "" || strings.Trim(number, "0123456789.") != "" {
		return 0, bad
	}
	n, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, bad
	}
	if suffix != "" && suffix != "b" {
		power := 1 + strings.IndexByte("kmgtp", suffix[0])
		if rest := suffix[1:]; power == 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, fmt.Errorf("invalid suffix: '%s'", suffix)
		}
		n *= math.Pow(base, float64(power))
	}
	if n >= math.MaxInt64 {
		return 0, bad
	}
	return int64(n), nil
}

// Duration prints roughly how long d is: "About a minute", "3 weeks".
func Duration(d time.Duration) string {
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours()+0.5)
	switch {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return fmt.Sprintf("%d seconds", seconds)
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return fmt.Sprintf("%d minutes", minutes)
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return fmt.Sprintf("%d hours", hours)
	case hours < 24*7*2:
		return fmt.Sprintf("%d days", hours/24)
	case hours < 24*30*2:
		return fmt.Sprintf("%d weeks", hours/24/7)
	case hours < 24*365*2:
		return fmt.Sprintf("%d months", hours/24/30)
	}
	return fmt.Sprintf("%d years", hours/24/365)
}

// Ago prints how long before now t was: "3 days ago". A zero t is "N/A".
func Ago(t, now time.Time) string {
	if t.IsZero() {
		return "N/A"
	}
	return Duration(now.Sub(t)) + " ago"
}

// ParseTime reads a point in time as `logs --since` and `events --until` take
// it: Unix seconds with or without a fraction, an RFC 3339 date or time in loc
// where it names no zone, or a duration back from now.
func ParseTime(s string, now time.Time, loc *time.Location) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil && s != "0" { // which is 1970
		return now.Add(-d), nil
	}
	for _, layout := range []string{
		time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15:04Z07:00", "2006-01-02Z07:00", "2006-01-02",
	} {
		if t, err := time.ParseInLocation(layout, s, loc); err == nil {
			return t, nil
		}
	}
	sec, frac, _ := strings.Cut(s, ".")
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil || len(frac) > 9 || strings.Trim(frac, "0123456789") != "" {
		return time.Time{}, fmt.Errorf("invalid time %q: want a timestamp, a date, or a duration back from now like 10m", s)
	}
	nanos, _ := strconv.ParseInt((frac + "000000000")[:9], 10, 64)
	return time.Unix(n, nanos), nil
}
