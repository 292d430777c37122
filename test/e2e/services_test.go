package e2e

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServices is a web server, a database and their clients from a distribution's
// packages, on a network of their own, and a package manager that installs from a
// mirror on this machine, by its name: as root and as an ordinary user.
func TestServices(t *testing.T) {
	b := setUp(t)
	if os.Getenv("CAIS_E2E") != "root" {
		t.Skip("make e2e-root asks for it: it takes minutes")
	}
	mmdebstrap, ok := lookPath("mmdebstrap")
	if !ok {
		t.Skip("mmdebstrap is not installed")
	}
	if b.person != asRoot {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	tar := filepath.Join(dir, "services.tar")
	openAbove(t, tar)
	cmd := inHostNet(exec.Command(mmdebstrap, "--quiet", "--variant=minbase", "--include=nginx-light,postgresql,curl", "bookworm", tar))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("mmdebstrap cannot make a root here: %v: %.300s", err, out)
	}
	mirror := mirrorOf(t, dir)
	for _, who := range []person{asRoot, withSubs} {
		t.Run(string(who), func(t *testing.T) {
			services(t, b.storeAs(t, who, false), tar, mirror)
		})
	}
}

// become makes an ordinary user's store of s.
func (s *store) become(t *testing.T, u *user.User) {
	t.Helper()
	uid, _ := strconv.Atoi(u.Uid) // the password file has numbers
	gid, _ := strconv.Atoi(u.Gid)
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	for _, d := range []string{s.root, s.home} {
		if err := os.Chown(d, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	openAbove(t, s.home)
}

// openAbove lets others through the directories of t.TempDir to what is in them.
func openAbove(t *testing.T, path string) {
	t.Helper()
	for d := filepath.Dir(path); strings.HasPrefix(d, os.TempDir()+"/"); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func services(t *testing.T, s *store, tar, mirror string) {
	run := func(args ...string) string {
		t.Helper()
		out, err := s.cmd(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("cais %q: %v: %s", args, err, out)
		}
		return string(out)
	}
	soon := func(want string, args ...string) {
		t.Helper()
		var out []byte
		for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(200 * time.Millisecond) {
			out, _ = s.cmd(args...).CombinedOutput()
			if strings.Contains(string(out), want) {
				return
			}
		}
		said, _ := s.cmd("exec", "db", "sh", "-c", "ps aux; cat /var/log/postgresql/*").CombinedOutput() // for who reads this
		t.Fatalf("cais %q: no %q: %s\n%s", args, want, out, said)
	}
	run("import", tar, "services")
	run("network", "create", "app")
	run("run", "-d", "--name", "db", "--network", "app", "services", "sh", "-c", `
		echo "host all all all md5" >>/etc/postgresql/15/main/pg_hba.conf
		echo "listen_addresses = '*'" >>/etc/postgresql/15/main/postgresql.conf
		until pg_ctlcluster 15 main start; do sleep 1; done # a pid file of the last run may name a living process
		su postgres -c "psql -c \"create user u password 'p'\" -c 'create database d owner u'"
		exec sleep 10000`)
	run("run", "-d", "--name", "web", "--network", "app", "--network-alias", "www", "-p", "127.0.0.1:18080:80", "services", "nginx", "-g", "daemon off;")
	soon("42", "run", "--rm", "--network", "app", "-e", "PGPASSWORD=p", "services", "psql", "-h", "db", "-U", "u", "-At", "-c", "select 40+2", "d")
	soon("200 OK", "run", "--rm", "--network", "app", "services", "curl", "-sI", "http://www/")
	res, err := http.Get("http://127.0.0.1:18080/")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the published port: %v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	// The database is another container with another address, and is found again.
	run("restart", "-t", "0", "db")
	soon("accepting", "exec", "db", "pg_isready")
	soon("42", "run", "--rm", "--network", "app", "-e", "PGPASSWORD=p", "services", "psql", "-h", "db.app", "-U", "u", "-At", "-c", "select 40+2", "d")

	out := run("run", "--rm", "services", "sh", "-c", `set -e
		rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*
		echo "deb [trusted=yes] http://host.docker.internal:`+mirror+` ./" >/etc/apt/sources.list
		apt-get -q update
		apt-get -q install -y greeting
		greeting`)
	if !strings.HasSuffix(out, "installed from the mirror\n") {
		t.Errorf("apt-get: %s", out)
	}
	run("rm", "-f", "db", "web")
	run("network", "rm", "app")
}

// mirrorOf serves a package of our own on all addresses of this machine, and
// returns the port.
func mirrorOf(t *testing.T, dir string) string {
	t.Helper()
	tree, www := filepath.Join(dir, "greeting"), filepath.Join(dir, "www")
	for path, text := range map[string]string{
		"DEBIAN/control":   "Package: greeting\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: says where it came from\n",
		"usr/bin/greeting": "#!/bin/sh\necho installed from the mirror\n",
	} {
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(www, 0o755); err != nil {
		t.Fatal(err)
	}
	deb := filepath.Join(www, "greeting.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", tree, deb).CombinedOutput(); err != nil {
		t.Skipf("dpkg-deb: %v: %s", err, out)
	}
	data, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	control, err := os.ReadFile(filepath.Join(tree, "DEBIAN", "control"))
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Sprintf("%sFilename: ./greeting.deb\nSize: %d\nSHA256: %x\n", control, len(data), sha256.Sum256(data))
	if err := os.WriteFile(filepath.Join(www, "Packages"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() { _ = http.Serve(l, http.FileServer(http.Dir(www))) }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
