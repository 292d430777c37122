package ui

import (
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// ShortID is an id as tables show it: 12 hex digits, without "sha256:".
func ShortID(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	if len(id) > 12 {
		id = id[:12]
	}
	return id
}

// Ellipsis cuts s to n characters, the last of which then is "…".
func Ellipsis(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	r := []rune(s)
	switch {
	case n <= 0:
		return ""
	case n == 1:
		return string(r[:1])
	}
	return string(r[:n-1]) + "…"
}

// Duration is how long something took or is ago, as a person says it.
func Duration(d time.Duration) string {
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours()+0.5)
	switch {
	case seconds < 1:
		return "Less than a second"
	case seconds == 1:
		return "1 second"
	case seconds < 60:
		return strconv.Itoa(seconds) + " seconds"
	case minutes == 1:
		return "About a minute"
	case minutes < 60:
		return strconv.Itoa(minutes) + " minutes"
	case hours == 1:
		return "About an hour"
	case hours < 48:
		return strconv.Itoa(hours) + " hours"
	case hours < 24*7*2:
		return strconv.Itoa(hours/24) + " days"
	case hours < 24*30*2:
		return strconv.Itoa(hours/24/7) + " weeks"
	case hours < 24*365*2:
		return strconv.Itoa(hours/24/30) + " months"
	}
	return strconv.Itoa(int(d.Hours())/24/365) + " years"
}

// Size is a number of bytes in decimal units with three significant digits:
// 1.98MB.
func Size(n int64) string { return SizeDigits(n, 3) }

// SizeDigits is [Size] with a number of significant digits of your own. What
// would round up to 1000 of a unit is 1 of the next.
func SizeDigits(n int64, digits int) string {
	units := []string{"B", "kB", "MB", "GB", "TB", "PB", "EB"}
	v, i := round(float64(n), digits), 0
	for v >= 1000 && i < len(units)-1 {
		i++
		v = round(float64(n)/math.Pow10(3*i), digits)
	}
	return strconv.FormatFloat(v, 'f', -1, 64) + units[i]
}

// round keeps the given number of significant digits.
func round(v float64, digits int) float64 {
	r, err := strconv.ParseFloat(strconv.FormatFloat(v, 'e', max(digits-1, 0), 64), 64)
	if err != nil {
		return v
	}
	return r
}

// BinarySize is a number of bytes in binary units with four significant
// digits: 23.54GiB.
func BinarySize(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	v, i := float64(n), 0
	for v >= 1024 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return strconv.FormatFloat(v, 'g', 4, 64) + units[i]
}

// TimeLayout is how tables print a moment.
const TimeLayout = "2006-01-02 15:04:05 -0700 MST"
