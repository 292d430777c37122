package source

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cais.dev/cais/pkg/build/graph"
	"cais.dev/cais/pkg/errs"
	"cais.dev/cais/test/trees"
)

func newSources(t testing.TB, o Options) *Sources {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	s := New(o)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestHTTP(t *testing.T) {
	body, asked, etag := "hello", 0, `"1"`
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.URL.Path == "/secret" && r.Header.Get("Authorization") != "Bearer tok" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/none" {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.Header().Set("ETag", etag)
		w.Header().Set("Last-Modified", "Wed, 21 Oct 2015 07:28:00 GMT")
		if r.Header.Get("If-None-Match") == etag {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		io.WriteString(w, body)
	}))
	defer srv.Close()
	host := strings.TrimPrefix(srv.URL, "http://")
	dir := t.TempDir()
	secrets, err := NewSecrets([]Secret{{ID: "HTTP_AUTH_TOKEN_" + host, Env: "T"}}, func(k string) (string, bool) { return "tok", k == "T" })
	if err != nil {
		t.Fatal(err)
	}
	get := func(op *graph.HTTP) (string, *Opened, error) {
		s := newSources(t, Options{Dir: dir, Secrets: secrets})
		o, err := s.Open(t.Context(), op, nil)
		if err != nil {
			return "", nil, err
		}
		ms, err := o.Tree.Find(t.Context(), Query{Path: op.Filename})
		if err != nil {
			t.Fatal(err)
		}
		e := &ms[0].Entries[0]
		if e.Mode&0o7777 != 0o600 || !e.Modified().Equal(time.Date(2015, 10, 21, 7, 28, 0, 0, time.UTC)) {
			t.Errorf("mode %o, time %v", e.Mode, e.Modified())
		}
		f, err := o.Tree.Open(&ms[0], e)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		data, _ := io.ReadAll(f)
		return string(data), o, s.Close()
	}
	got, o, err := get(&graph.HTTP{URL: srv.URL + "/f", Filename: "f"})
	if err != nil || got != "hello" || o.Cached {
		t.Fatal(got, err)
	}
	got, o, err = get(&graph.HTTP{URL: srv.URL + "/f", Filename: "other"})
	if err != nil || got != "hello" || !o.Cached {
		t.Error("an unchanged file is fetched again", got, err)
	}
	body, etag = "bye", `"2"`
	if got, _, err = get(&graph.HTTP{URL: srv.URL + "/f", Filename: "f"}); err != nil || got != "bye" {
		t.Error(got, err)
	}
	sum := sha256.Sum256([]byte("bye"))
	good := "sha256:" + hex.EncodeToString(sum[:])
	before := asked
	if got, _, err = get(&graph.HTTP{URL: srv.URL + "/f", Filename: "f", Checksum: good}); err != nil || got != "bye" || asked != before {
		t.Error("a checksum that is known needs no question", got, err, asked-before)
	}
	bad := "sha256:" + strings.Repeat("0", 64)
	if _, _, err = get(&graph.HTTP{URL: srv.URL + "/f", Filename: "f", Checksum: bad}); err == nil || !strings.Contains(err.Error(), "digest mismatch "+good+": "+bad) {
		t.Error(err)
	}
	if _, _, err = get(&graph.HTTP{URL: srv.URL + "/none", Filename: "f"}); errs.KindOf(err) != errs.NotFound || !strings.Contains(err.Error(), "invalid response status 404") {
		t.Error(err)
	}
	if got, _, err = get(&graph.HTTP{URL: srv.URL + "/secret", Filename: "f"}); err != nil || got != "bye" {
		t.Error(got, err)
	}
	if _, _, err = get(&graph.HTTP{URL: "http://u:hunter2@127.0.0.1:1/x", Filename: "x"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Error(err)
	}
}

// repo makes a repository served by git's own daemon, and returns its address
// and its commits, the oldest first.
func repo(t *testing.T) (address string, commits []string) {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	base := t.TempDir()
	dir := filepath.Join(base, "r.git")
	script := `set -e
export GIT_CONFIG_GLOBAL=/dev/null GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
git init -q -b main ` + dir + `; cd ` + dir + `
mkdir d; echo one >f; echo x >d/e; printf '#!/bin/sh\n' >run; chmod 755 run; ln -s f l; ln -s /etc out
git add .; GIT_COMMITTER_DATE=@1000000000 git commit -q -m 1
git tag -a v1 -m v1; git branch side
echo two >f; git commit -q -a -m 2
touch .git/git-daemon-export-ok
git rev-parse HEAD~1 HEAD
git init -q -b main ../super.git; cd ../super.git
printf '[submodule "part"]\npath = part\nurl = ../r.git\n' >.gitmodules
git add .gitmodules; git update-index --add --cacheinfo 160000,$(git -C ../r.git rev-parse HEAD),part; git commit -q -m 1
touch .git/git-daemon-export-ok`
	out, err := exec.Command("sh", "-c", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	cmd := exec.Command("git", "daemon", "--verbose", "--log-destination=stderr", "--listen=127.0.0.1", "--port="+port, "--base-path="+base, "--reuseaddr", base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // git starts the one that listens
	log, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); cmd.Wait() })
	if line, _ := bufio.NewReader(log).ReadString('\n'); !strings.Contains(line, "Ready") {
		t.Skip("git daemon does not start here: " + line)
	}
	return "git://127.0.0.1:" + port + "/r.git", strings.Fields(string(out))
}

func TestGit(t *testing.T) {
	address, commits := repo(t)
	dir := t.TempDir()
	env := append(os.Environ(), "GIT_DIR=/nonexistent") // of a hook that calls us
	get := func(op graph.Git) (string, *Opened, error) {
		t.Helper()
		op.URL = cmp.Or(op.URL, address)
		s := newSources(t, Options{Dir: dir, Environ: env})
		o, err := s.Open(t.Context(), &op, nil)
		if err != nil {
			return "", nil, err
		}
		return show(t, o.Tree, Query{Path: "."}), o, nil
	}
	all := ".@. d d/e f l out run"
	for _, c := range []struct {
		op   graph.Git
		want string
		id   int
	}{
		{graph.Git{}, all, 1},
		{graph.Git{Ref: "main"}, all, 1},
		{graph.Git{Ref: "refs/heads/side"}, all, 0},
		{graph.Git{Ref: "v1"}, all, 0},
		{graph.Git{Ref: commits[0]}, all, 0},
		{graph.Git{Ref: "main", Checksum: commits[1][:8]}, all, 1},
		{graph.Git{Ref: "gone", Checksum: commits[0], FetchByCommit: true}, all, 0},
		{graph.Git{Subdir: "d"}, ".@. e", 1},
	} {
		got, o, err := get(c.op)
		if err != nil {
			t.Errorf("%+v: %v", c.op, err)
			continue
		}
		if got != c.want || o.ID != commits[c.id] {
			t.Errorf("%+v: %s, %s", c.op, got, o.ID)
		}
	}
	if _, o, err := get(graph.Git{Ref: "v1"}); err != nil || !o.Cached {
		t.Error("the second time it is fetched again", err)
	}
	_, o, err := get(graph.Git{Ref: "v1", CommitTimes: true})
	if err != nil {
		t.Fatal(err)
	}
	ms, _ := o.Tree.Find(t.Context(), Query{Path: "."})
	for _, e := range ms[0].Entries {
		want := map[bool]uint32{true: 0o755, false: 0o644}[e.IsDir() || e.Rel == "run"]
		if e.Modified().Unix() != 1000000000 || e.IsRegular() && e.Mode&0o7777 != want {
			t.Errorf("%s: time %v, mode %o", e.Rel, e.Modified(), e.Mode)
		}
	}
	if o.Time.Unix() != 1000000000 {
		t.Error(o.Time)
	}
	if got, _, err := get(graph.Git{KeepDir: true}); err != nil || !strings.Contains(got, " .git/HEAD ") {
		t.Error(got, err)
	}
	super := strings.Replace(address, "/r.git", "/super.git", 1)
	for _, without := range []bool{false, true} {
		if got, _, err := get(graph.Git{URL: super, NoSubmodules: without}); err != nil || strings.Contains(got, " part/d/e ") == without {
			t.Errorf("without submodules %v: %s, %v", without, got, err)
		}
	}
	for _, c := range []struct {
		op   graph.Git
		want string
	}{
		{graph.Git{Ref: "nope"}, "repository does not contain ref nope"},
		{graph.Git{Checksum: "0123456"}, "expected checksum to match 0123456, got " + commits[1]},
		{graph.Git{Subdir: "nope"}, "has no directory nope"},
		{graph.Git{Subdir: "f"}, "f of the repository is not a directory"},
		{graph.Git{Subdir: "out"}, "has no directory out"},
		{graph.Git{Ref: strings.Repeat("0", 40)}, ""},
	} {
		if _, _, err := get(c.op); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.op, err)
		}
	}
}

func TestHostileGitAddresses(t *testing.T) {
	s := newSources(t, Options{Environ: os.Environ()})
	mark := filepath.Join(t.TempDir(), "ran")
	for _, op := range []graph.Git{
		{URL: "ext::sh -c touch% " + mark}, {URL: "--upload-pack=touch " + mark}, {URL: "file:///etc"}, {URL: "/etc"},
		{URL: "ssh://-oProxyCommand=touch " + mark + "/x"}, {URL: "-oProxyCommand=x@host:x"}, {URL: "git@-oProxyCommand=x:x"},
		{URL: "https://host/x.git", Ref: "--upload-pack=touch"}, {URL: "https://host/x.git\nx"}, {URL: "fd::17"}, {URL: "http://-x/y.git"},
	} {
		if _, err := s.Open(t.Context(), &op, nil); err == nil {
			t.Errorf("%q is taken", op.URL)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a command ran")
	}
}

type member struct {
	h    tar.Header
	data string
}

func tarOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, m := range members {
		m.h.Size = int64(len(m.data))
		if m.h.Mode == 0 {
			m.h.Mode = 0o644
		}
		if err := w.WriteHeader(&m.h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, m.data)
	}
	w.Close()
	return b.Bytes()
}

func TestStream(t *testing.T) {
	s := newSources(t, Options{})
	got, err := s.Stream(t.Context(), strings.NewReader("FROM scratch\n"))
	if err != nil || string(got.Text) != "FROM scratch\n" || got.Dir != "" {
		t.Error(got, err)
	}
	data := tarOf(t, member{tar.Header{Name: "./d/", Typeflag: tar.TypeDir, Mode: 0o700}, ""}, member{tar.Header{Name: "d/f"}, "x"},
		member{tar.Header{Name: "deep/er/f", Mode: 0o4755}, "y"}, member{tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "d/f"}, ""})
	for _, tool := range []string{"cat", "gzip", "bzip2", "xz", "zstd"} {
		if _, err := exec.LookPath(tool); err != nil {
			continue
		}
		cmd := exec.Command(tool)
		cmd.Stdin = bytes.NewReader(data)
		z, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		got, err := s.Stream(t.Context(), bytes.NewReader(z))
		if err != nil || got.Dir == "" {
			t.Fatal(tool, err)
		}
		tree := open(t, got.Dir, "")
		if l := show(t, tree, Query{Path: "."}); l != ".@. d d/f deep deep/er deep/er/f h" {
			t.Error(tool, l)
		}
	}
	if _, err := s.Stream(t.Context(), bytes.NewReader(data[:700])); err == nil {
		t.Error("a torn archive is taken")
	}
	if got, err := s.Stream(t.Context(), bytes.NewReader(make([]byte, 1024))); err != nil || got.Dir == "" {
		t.Error("an empty archive is none", err)
	}
	var z bytes.Buffer
	cmd := exec.Command("gzip")
	cmd.Stdin, cmd.Stdout = strings.NewReader("FROM x"), &z
	if cmd.Run() == nil {
		if _, err := s.Stream(t.Context(), &z); err == nil || !strings.Contains(err.Error(), "no tar archive") {
			t.Error(err)
		}
	}
}

// Whatever an archive says, nothing outside is touched.
func TestHostileArchives(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	os.WriteFile(victim, []byte("safe"), 0o644)
	for i, ms := range [][]member{
		{{tar.Header{Name: "../../" + victim}, "bad"}},
		{{tar.Header{Name: victim}, "bad"}},
		{{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, ""}, {tar.Header{Name: "l/victim"}, "bad"}},
		{{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: victim}, ""}, {tar.Header{Name: "l"}, "bad"}},
		{{tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: victim}, ""}, {tar.Header{Name: "h"}, "bad"}},
		{{tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, ""}, {tar.Header{Name: "l", Typeflag: tar.TypeDir, Mode: 0}, ""}},
	} {
		_ = unpack(t.Context(), t.TempDir(), bytes.NewReader(tarOf(t, ms...)))
		if data, _ := os.ReadFile(victim); string(data) != "safe" {
			t.Fatalf("case %d wrote outside", i)
		}
		if fi, _ := os.Stat(outside); fi.Mode().Perm() == 0 {
			t.Fatalf("case %d changed a mode outside", i)
		}
	}
}

func FuzzIsTar(f *testing.F) {
	f.Add(make([]byte, 512))
	f.Fuzz(func(t *testing.T, b []byte) { isTar(b) })
}

func TestAgent(t *testing.T) {
	for _, tool := range []string{"ssh-keygen", "ssh-add"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("OpenSSH is not installed")
		}
	}
	dir := t.TempDir()
	var list []SSH
	for _, k := range [][2]string{{"ed25519", ""}, {"rsa", ""}, {"ecdsa", ""}, {"rsa", "PEM"}, {"rsa", "PKCS8"}, {"ecdsa", "PEM"}} {
		file := filepath.Join(dir, k[0]+k[1])
		args := []string{"-q", "-b", map[string]string{"rsa": "2048", "ecdsa": "256", "ed25519": "256"}[k[0]], "-t", k[0], "-N", "", "-C", "me", "-f", file}
		if k[1] != "" {
			args = append(args, "-m", k[1])
		}
		if out, err := exec.Command("ssh-keygen", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		list = append(list, SSH{k[0] + k[1], []string{file}})
	}
	locked := filepath.Join(dir, "locked")
	exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", locked).Run()
	none := func(string) (string, bool) { return "", false }
	if _, err := NewAgents([]SSH{{"x", []string{locked}}}, none); err == nil || !strings.Contains(err.Error(), "encrypted") {
		t.Error(err)
	}
	if _, err := NewAgents([]SSH{{"default", nil}}, none); err == nil || !strings.Contains(err.Error(), "SSH_AUTH_SOCK") {
		t.Error(err)
	}
	a, err := NewAgents(list, none)
	if err != nil {
		t.Fatal(err)
	}
	check := func(sock, key string) {
		t.Helper()
		// ssh-keygen -Y has the agent sign, and checks.
		msg := filepath.Join(dir, "msg")
		os.WriteFile(msg, []byte("hello"), 0o600)
		os.Remove(msg + ".sig")
		cmd := exec.Command("sh", "-c", `ssh-keygen -Y sign -n t -f "$0.pub" "$1" && ssh-keygen -Y check-novalidate -n t -s "$1.sig" <"$1"`, key, msg)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock)
		os.Rename(key, key+".away") // the agent's, not the file
		out, err := cmd.CombinedOutput()
		os.Rename(key+".away", key)
		if err != nil {
			t.Errorf("%s: %v: %s", key, err, out)
		}
	}
	for _, x := range list {
		sock, end, err := a.Listen(context.Background(), x.ID, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		check(sock, x.Paths[0])
		// A second agent forwards to the first, and refuses what changes it.
		b, err := NewAgents([]SSH{{"default", nil}}, func(string) (string, bool) { return sock, true })
		if err != nil {
			t.Fatal(err)
		}
		sock2, end2, err := b.Listen(context.Background(), "", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		check(sock2, x.Paths[0])
		cmd := exec.Command("ssh-add", "-D")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+sock2)
		if cmd.Run() == nil {
			t.Error("keys can be removed")
		}
		end2()
		end()
	}
	if _, _, err := a.Listen(context.Background(), "nope", dir); err == nil || !strings.Contains(err.Error(), "unset ssh forward key nope") {
		t.Error(err)
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add([]byte("-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmU=\n-----END OPENSSH PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, b []byte) { parseKey(b) })
}

func TestSecrets(t *testing.T) {
	dir := trees.Make(t, "s=hunter2", "big=x")
	os.Truncate(filepath.Join(dir, "big"), maxSecret+1)
	env := func(k string) (string, bool) { return "v", k == "E" }
	s, err := NewSecrets([]Secret{{ID: "a", File: filepath.Join(dir, "s")}, {ID: "b", Env: "E"}, {ID: "c", Env: "F"}}, env)
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]string{"a": "hunter2 true", "b": "v true", "c": " false", "d": " false"} {
		v, ok, err := s.Get(t.Context(), id)
		if got := fmt.Sprint(string(v), " ", ok); got != want || err != nil {
			t.Errorf("%s: %s %v", id, got, err)
		}
	}
	for _, bad := range []string{"big", "nope", "."} {
		if _, err := NewSecrets([]Secret{{ID: "x", File: filepath.Join(dir, bad)}}, env); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
}

func TestWhatPassesToAnAgent(t *testing.T) {
	for msg, want := range map[string]bool{
		"": false, "\x0b": true, "\x0dkey": true, "\x11": false, "\x13": false, // add, remove all
		"\x1b\x00\x00\x00\x18session-bind@openssh.com...": true,
		"\x1b\x00\x00\x00\x19session-bind@openssh.comX":   false,
		"\x1b\x00\x00\x00\x04kill":                        false,
		"\x1b\x00\x00":                                    false,
	} {
		if got := passes([]byte(msg)); got != want {
			t.Errorf("%q: %v", msg, got)
		}
	}
}
