// Package gitref reads the addresses of git repositories as build and ADD accept
// them (docs.docker.com/build/concepts/context, "URL fragments" and "URL
// queries"):
//
//	https://host/repo.git#branch:dir
//	https://host/repo.git?branch=main&subdir=dir&commit=1234abcd
//	git@host:repo.git   ssh://git@host/repo   git://host/repo
package gitref

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Ref is a repository and what is wanted of it.
type Ref struct {
	Remote        string // for git: without fragment and query
	Ref           string // branch, tag, "refs/…" or commit; empty: HEAD
	Subdir        string // without slashes at its ends, never with ".."
	Checksum      string // commit, or the beginning of one, that Ref must be
	KeepDir       *bool  // keep .git; nil: not said
	Submodules    *bool  // nil: not said
	MTime         string // "", "checkout" or "commit"
	FetchByCommit bool   // Checksum itself is fetched

	// Bare is "github.com/user/repo", which may as well be a path here: a
	// repository as a context, but not for ADD.
	Bare bool
}

// ErrNot is that something is not a repository's address. Other errors are about
// addresses that are.
var ErrNot = errors.New("not a git repository's address")

// Parse reads s. http and https addresses are of repositories if their path ends in ".git".
func Parse(s string) (Ref, error) {
	switch {
	case strings.HasPrefix(s, "./") || strings.HasPrefix(s, "../"):
		return Ref{}, ErrNot
	case strings.HasPrefix(s, "github.com/"):
		u, err := url.Parse("https://" + s)
		if err != nil {
			return Ref{}, ErrNot
		}
		r, err := finish(u.Fragment, u.Query(), without(u))
		r.Remote, r.Bare = strings.TrimPrefix(r.Remote, "https://"), true
		return r, err
	}
	if scheme, _, ok := strings.Cut(s, "://"); ok && isAlnum(scheme) {
		switch strings.ToLower(scheme) {
		case "http", "https", "ssh", "git":
		default:
			return Ref{}, ErrNot
		}
		u, err := url.Parse(s)
		if err != nil {
			return Ref{}, ErrNot
		}
		if strings.HasPrefix(u.Scheme, "http") && !strings.HasSuffix(u.Path, ".git") {
			return Ref{}, ErrNot
		}
		return finish(u.Fragment, u.Query(), without(u))
	}
	// git's own form, user@host:path.
	user, rest, ok := strings.Cut(s, "@")
	host, p, ok2 := strings.Cut(rest, ":")
	if !ok || !ok2 || !only(user, "-_") || !only(host, "-.") {
		return Ref{}, ErrNot
	}
	p, fragment, _ := strings.Cut(p, "#")
	p, rawQuery, _ := strings.Cut(p, "?")
	query, err := url.ParseQuery(rawQuery)
	if err != nil {
		return Ref{}, ErrNot
	}
	return finish(fragment, query, user+"@"+host+":"+p)
}

func without(u *url.URL) string {
	c := *u
	c.Fragment, c.RawFragment, c.RawQuery = "", "", ""
	return c.String()
}

// finish reads what comes after the address.
func finish(fragment string, query url.Values, remote string) (Ref, error) {
	r := Ref{Remote: remote}
	if fragment != "" {
		r.Ref, r.Subdir, _ = strings.Cut(fragment, ":")
	}
	if err := r.query(query); err != nil {
		return Ref{}, fmt.Errorf("%s: %w", remote, err)
	}
	r.Subdir = strings.TrimPrefix(path.Join("/", r.Subdir), "/")
	// git would take these for options.
	if strings.HasPrefix(r.Ref, "-") || strings.HasPrefix(r.Remote, "-") || strings.HasPrefix(r.Checksum, "-") {
		return Ref{}, fmt.Errorf("%s: a reference must not begin with a hyphen", remote)
	}
	return r, nil
}

// query reads the query's keys in order, so that of two mistakes always the
// same one is told.
func (r *Ref) query(q url.Values) error {
	var tag, branch string
	keys := make([]string, 0, len(q))
	for k := range q {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		if len(q[k]) > 1 {
			return fmt.Errorf("query %q has multiple values", k)
		}
		v := q[k][0]
		flag := k == "submodules" || k == "keep-git-dir" || k == "fetch-by-commit"
		if v == "" && !flag {
			return fmt.Errorf("query %q has no value", k)
		}
		on := true
		if flag && v != "" {
			var err error
			if on, err = strconv.ParseBool(v); err != nil {
				return fmt.Errorf("invalid %s value: %q", k, v)
			}
		}
		switch k {
		case "ref":
			if r.Ref != "" && r.Ref != v {
				return fmt.Errorf("ref conflicts: %q vs %q", r.Ref, v)
			}
			r.Ref = v
		case "tag":
			tag = "refs/tags/" + strings.TrimPrefix(v, "refs/tags/")
		case "branch":
			branch = "refs/heads/" + strings.TrimPrefix(v, "refs/heads/")
		case "subdir":
			if r.Subdir != "" && r.Subdir != v {
				return fmt.Errorf("subdir conflicts: %q vs %q", r.Subdir, v)
			}
			r.Subdir = v
		case "checksum", "commit":
			r.Checksum = v
		case "keep-git-dir":
			r.KeepDir = &on
		case "submodules":
			r.Submodules = &on
		case "fetch-by-commit":
			r.FetchByCommit = on
		case "mtime":
			if v != "checkout" && v != "commit" {
				return fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", v)
			}
			r.MTime = v
		default:
			return fmt.Errorf("unexpected query %q", k)
		}
	}
	if tag != "" && branch != "" {
		return errors.New("branch conflicts with tag")
	}
	if full := tag + branch; full != "" {
		if r.Ref != "" && r.Ref != full {
			return fmt.Errorf("ref conflicts: %q vs %q", r.Ref, full)
		}
		r.Ref = full
	}
	return nil
}

func isAlnum(s string) bool { return only(s, "") }

// only reports whether s is not empty and of letters, digits and extra.
func only(s, extra string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && !strings.ContainsRune(extra, c)
	})
}
