package container

import (
	"crypto/rand"
	"encoding/hex"
	"math/big"
	"strconv"

	"cais.dev/cais/pkg/errs"
)

// NewID returns a fresh random id of 64 hex digits.
func NewID() string {
	var b [32]byte
	for {
		_, _ = rand.Read(b[:]) // never fails: crypto/rand
		id := hex.EncodeToString(b[:])
		if !allDigits(id[:12]) { // the short form must not be taken for a number, as a default host name may not be one
			return id
		}
	}
}

// IsID reports whether s has the form of a full id.
func IsID(s string) bool { return len(s) == 64 && isHex(s) }

// ShortID is the form of an id that people see.
func ShortID(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

func isHex(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return s != ""
}

func allDigits(s string) bool {
	_, err := strconv.ParseUint(s, 10, 64)
	return err == nil
}

// CheckName fails with Invalid unless name may name a container:
// [a-zA-Z0-9][a-zA-Z0-9_.-]+. Such a name is also a safe file name.
func CheckName(name string) error {
	ok := len(name) >= 2 && len(name) <= 250 // NAME_MAX is 255, and temporary names need a few
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		ok = alnum || i > 0 && (c == '_' || c == '.' || c == '-')
	}
	if !ok {
		return errs.New(errs.Invalid, "invalid container name "+strconv.Quote(name)+
			": only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, and at least two of them")
	}
	return nil
}

// RandomName returns a name made of an adjective and a surname. From the
// tenth try on it ends in a number, so that a crowded store still finds one.
func RandomName(try int) string {
	name := pick(adjectives[:]) + "_" + pick(surnames[:])
	if try >= 10 {
		name += strconv.Itoa(try - 9 + int(draw(10)))
	}
	return name
}

func pick(words []string) string { return words[draw(int64(len(words)))] }

func draw(n int64) int64 {
	v, err := rand.Int(rand.Reader, big.NewInt(n))
	if err != nil {
		return 0 // cannot happen; the first word is as good as any
	}
	return v.Int64()
}

// People who made computing, mathematics and seafaring what they are.
var surnames = [...]string{
	"abel", "ada", "agnesi", "allen", "amundsen", "babbage", "backus", "bartik", "bell", "bernoulli",
	"blackwell", "boole", "borg", "brahmagupta", "cantor", "cauchy", "cerf", "chandra", "church", "clarke",
	"codd", "conway", "cray", "curie", "dahl", "darwin", "dijkstra", "drake", "eckert", "edison",
	"einstein", "engelbart", "euclid", "euler", "faraday", "feinler", "fermat", "feynman", "floyd", "fourier",
	"franklin", "galois", "gauss", "germain", "goedel", "goldberg", "hamilton", "hamming", "hedy", "hilbert",
	"hoare", "holberton", "hopper", "hypatia", "iverson", "jacquard", "joule", "karp", "kay", "kelvin",
	"kepler", "keller", "khwarizmi", "kilby", "kleene", "knuth", "kovalevskaya", "lamport", "laplace", "leibniz",
	"liskov", "lovelace", "magellan", "markov", "maxwell", "mccarthy", "meitner", "mendel", "milner", "minsky",
	"mirzakhani", "morse", "nansen", "napier", "naur", "neumann", "newton", "nightingale", "noether", "nygaard",
	"pascal", "pearl", "perlman", "postel", "ptolemy", "ramanujan", "ride", "ritchie", "rubin", "rutherford",
	"shannon", "sinclair", "steele", "stroustrup", "sutherland", "tarjan", "tesla", "thompson", "torvalds", "turing",
	"vaughan", "volta", "wiles", "wilkes", "wirth", "yao", "zuse",
}

var adjectives = [...]string{
	"able", "agile", "airy", "amber", "ample", "apt", "balmy", "bold", "brave", "breezy",
	"bright", "brisk", "calm", "candid", "cheery", "civil", "clear", "clever", "cosy", "crisp",
	"curious", "dapper", "daring", "deft", "eager", "early", "earnest", "easy", "fair", "fine",
	"fleet", "fluent", "fond", "frank", "fresh", "gentle", "glad", "golden", "grand", "hardy",
	"hearty", "honest", "humble", "ideal", "jolly", "just", "keen", "kind", "lively", "loyal",
	"lucid", "lucky", "mellow", "merry", "mild", "modest", "neat", "nimble", "noble", "open",
	"patient", "plain", "polite", "prompt", "proud", "quick", "quiet", "ready", "robust", "serene",
	"sharp", "silent", "sincere", "smart", "snug", "sober", "solid", "sound", "spry", "steady",
	"stout", "sturdy", "sunny", "swift", "tidy", "trim", "trusty", "upbeat", "vivid", "warm",
	"wise", "witty", "young", "zesty",
}
