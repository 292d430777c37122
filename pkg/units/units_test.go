package units

import (
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0B", 999: "999B", 1000: "1kB", 999_999: "1MB", 1981000: "1.98MB", 199_000_000: "199MB", 2_130_000_000: "2.13GB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
	if got := BinarySize(557056); got != "544KiB" {
		t.Error(got)
	}
	if got := BinarySize(25275884011); got != "23.54GiB" {
		t.Error(got)
	}
}

func TestParseSize(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "512": 512, "64m": 64 << 20, "64M": 64 << 20, "1.5g": 3 << 29, "2KiB": 2048, "1 gb": 1 << 30, "7b": 7, "1t": 1 << 40,
	} {
		if got, err := ParseSize(s); err != nil || got != want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "m", "-1", "1x", "1mm", "1.2.3m", "99999999999p", "1 m b", "0x10"} {
		if got, err := ParseSize(s); err == nil {
			t.Errorf("ParseSize(%q) = %d, want an error", s, got)
		}
	}
}

func TestDuration(t *testing.T) {
	const day = 24 * time.Hour
	for d, want := range map[time.Duration]string{
		0: "Less than a second", time.Second: "1 second", 59 * time.Second: "59 seconds", 61 * time.Second: "About a minute",
		5 * time.Minute: "5 minutes", 61 * time.Minute: "About an hour", 47 * time.Hour: "47 hours", 2 * day: "2 days",
		-56 * 365 * day: "Less than a second", 56 * 365 * day: "56 years", // a clock was set while it ran
		13 * day: "13 days", 15 * day: "2 weeks", 70 * day: "2 months", 800 * day: "2 years",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
	now := time.Unix(1e9, 0)
	if got := Ago(now.Add(-3*day), now); got != "3 days ago" {
		t.Error(got)
	}
	if got := Ago(time.Time{}, now); got != "N/A" {
		t.Error(got)
	}
}

func TestParseTime(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for s, want := range map[string]time.Time{
		"10m":                       now.Add(-10 * time.Minute),
		"1792224000":                time.Unix(1792224000, 0),
		"1792224000.5":              time.Unix(1792224000, 500_000_000),
		"2026-11-21":                time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC),
		"2026-11-21T07:05":          time.Date(2026, 11, 21, 7, 5, 0, 0, time.UTC),
		"2026-11-21T07:05:25.97":    time.Date(2026, 11, 21, 7, 5, 25, 970_000_000, time.UTC),
		"2026-11-21T07:05:25+01:00": time.Date(2026, 11, 21, 6, 5, 25, 0, time.UTC),
	} {
		if got, err := ParseTime(s, now, time.UTC); err != nil || !got.Equal(want) {
			t.Errorf("ParseTime(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
	for _, s := range []string{"", "yesterday", "1.x", "1.1234567890"} {
		if got, err := ParseTime(s, now, time.UTC); err == nil {
			t.Errorf("ParseTime(%q) = %v, want an error", s, got)
		}
	}
}
