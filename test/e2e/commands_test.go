package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"cais.dev/cais/test/testimage"
)

// commands are what scripts can say beside testscript's own words.
func (b *bench) commands() map[string]func(*testscript.TestScript, bool, []string) {
	return map[string]func(*testscript.TestScript, bool, []string){
		"load":           b.load,
		"registry":       b.registry,
		"dockerregistry": b.dockerRegistry,
		"dockerd":        b.dockerd,
		"push":           b.push,
		"webserver":      webserver,
		"syslogtls":      syslogTLS,
		"smalldisk":      b.smallDisk,
		"broken":         b.markBroken,
		"clean":          b.clean,
		"nocase":         nocase,
		"next":           b.next,
	}
}

func storeOf(ts *testscript.TestScript) *store { return ts.Value(keyStore{}).(*store) }

// load puts the busybox image into the script's store.
func (b *bench) load(ts *testscript.TestScript, neg bool, args []string) {
	c := storeOf(ts).cmd("load", "-q", "-i", filepath.Join(b.images, "busybox.tar"))
	if out, err := c.CombinedOutput(); err != nil {
		ts.Fatalf("cais load: %v\n%s", err, out)
	}
}

// registry [USER:PASSWORD] starts a registry on loopback for this script; its
// address is $REGISTRY.
func (b *bench) registry(ts *testscript.TestScript, neg bool, args []string) {
	h := registry.New(registry.Logger(quiet()))
	if len(args) > 0 {
		user, pass, _ := strings.Cut(args[0], ":")
		h = basicAuth(h, user, pass)
		ts.Setenv("REGISTRY_AUTH", args[0])
	}
	srv := httptest.NewServer(h)
	ts.Defer(srv.Close)
	ts.Setenv("REGISTRY", strings.TrimPrefix(srv.URL, "http://"))
}

// webserver DIR serves the files below a directory to this machine; its address is $WEB.
func webserver(ts *testscript.TestScript, neg bool, args []string) {
	srv := httptest.NewServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	ts.Defer(srv.Close)
	ts.Setenv("WEB", strings.TrimPrefix(srv.URL, "http://"))
}

// dockerRegistry [USER] starts Debian's registry for this script; with a user, the
// password is "secret".
func (b *bench) dockerRegistry(ts *testscript.TestScript, neg bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := l.Addr().String()
	ts.Check(l.Close())
	dir := ts.MkAbs("registry")
	ts.Check(os.MkdirAll(dir, 0o700))
	// The registry takes bcrypt alone; this is "secret".
	const hash = "$2y$05$KTuSS0EDf0YYA2Qc8ixBk.RrtUV4cpkc0r.ECwjfJIzTeJ2jjSmWC"
	config := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %s}\n", dir, addr)
	if len(args) > 0 {
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
		ts.Check(os.WriteFile(dir+"/htpasswd", []byte(args[0]+":"+hash+"\n"), 0o600))
		ts.Setenv("REGISTRY_AUTH", args[0]+":secret")
	}
	ts.Check(os.WriteFile(dir+"/config.yml", []byte(config), 0o600))
	path, _ := lookPath("docker-registry")
	cmd := exec.Command(path, "serve", dir+"/config.yml")
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			ts.Fatalf("docker-registry does not answer: %v", err)
		}
	}
	ts.Setenv("REGISTRY", addr)
}

// dockerd [FLAG...] starts Docker's daemon for this script, with mounts, files and a
// cgroup of its own. $DOCKER is Docker's own client, which speaks to it ("docker" is
// cais here), $DOCKER_DIR where the daemon keeps everything.
func (b *bench) dockerd(ts *testscript.TestScript, neg bool, args []string) {
	client, err := exec.LookPath("docker")
	ts.Check(err)
	daemon, _ := lookPath("dockerd")
	dir, err := os.MkdirTemp(b.dir, "docker")
	ts.Check(err)
	socket, cgroup := filepath.Join(dir, "s"), filepath.Base(dir)
	cmd := exec.Command("unshare", append([]string{"-m", daemon, "--bridge=none", "--iptables=false", "-H", "unix://" + socket, "-p", dir + "/pid",
		"--data-root", dir + "/data", "--exec-root", dir + "/x", "--cgroup-parent", "/" + cgroup}, args...)...)
	cmd.Env = append(os.Environ(), "PATH="+storeOf(ts).path)
	output, err := os.Create(filepath.Join(dir, "log"))
	ts.Check(err)
	defer output.Close()
	cmd.Stdout, cmd.Stderr = output, output
	ts.Check(cmd.Start())
	ts.Defer(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		exec.Command("find", "/sys/fs/cgroup", "-depth", "-type", "d", "-path", "*/"+cgroup+"*", "-exec", "rmdir", "{}", ";").Run()
		ts.Check(os.RemoveAll(dir))
	})
	ts.Setenv("DOCKER", client)
	ts.Setenv("DOCKER_DIR", dir)
	ts.Setenv("DOCKER_HOST", "unix://"+socket)
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if exec.Command(client, "-H", "unix://"+socket, "version").Run() == nil {
			return
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(output.Name())
			ts.Fatalf("dockerd does not answer: %s", said)
		}
	}
}

// syslogTLS FILE starts a syslog server behind TLS at $SYSLOG, which appends what it
// gets to FILE. $SYSLOG_CA is the file of its certificate.
func syslogTLS(ts *testscript.TestScript, neg bool, args []string) {
	srv := httptest.NewUnstartedServer(nil)
	srv.StartTLS() // for its certificate, which is of 127.0.0.1
	srv.Close()
	ca := ts.MkAbs("ca.pem")
	ts.Check(os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o644))
	to, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: srv.TLS.Certificates})
	ts.Check(err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.Copy(to, c)
			c.Close()
		}
	})
	ts.Defer(func() {
		l.Close()
		serving.Wait()
		to.Close()
	})
	ts.Setenv("SYSLOG", l.Addr().String())
	ts.Setenv("SYSLOG_CA", ca)
}

func quiet() *log.Logger { return log.New(io.Discard, "", 0) }

func basicAuth(h http.Handler, user, pass string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != pass {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// push KIND REF puts an image into a registry: busybox, multi (two platforms),
// other (only for a platform that this machine is not) or config (with entrypoint,
// labels and the like).
func (b *bench) push(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: push busybox|multi|other|config REF")
	}
	ref, err := name.ParseReference(args[1], name.Insecure)
	ts.Check(err)
	var opts []remote.Option
	if user, pass, ok := strings.Cut(ts.Getenv("REGISTRY_AUTH"), ":"); ok {
		opts = append(opts, remote.WithAuth(&authn.Basic{Username: user, Password: pass}))
	}
	var img v1.Image
	switch args[0] {
	case "multi":
		idx, err := b.box.Multi()
		ts.Check(err)
		ts.Check(remote.WriteIndex(ref, idx, opts...))
		return
	case "busybox":
		img, err = b.box.Busybox()
	case "other":
		img, err = b.image("linux/s390x", nil)
	case "config":
		img, err = b.image(testimage.Host(), func(c *v1.Config) {
			c.Entrypoint = []string{"/bin/echo", "entry"}
			c.Cmd = []string{"cmd"}
			c.Env = append(c.Env, "FROM_IMAGE=yes")
			c.WorkingDir = "/tmp"
			c.Labels = map[string]string{"label": "value"}
			c.StopSignal = "SIGINT"
		})
	default:
		ts.Fatalf("push: unknown image %q", args[0])
	}
	ts.Check(err)
	ts.Check(remote.Write(ref, img, opts...))
}

// image makes a one-layer image.
func (b *bench) image(platform string, edit func(*v1.Config)) (v1.Image, error) {
	layer, err := testimage.Layer(b.box.Base()...)
	if err != nil {
		return nil, err
	}
	return testimage.Image(platform, edit, layer)
}

// smalldisk SIZE puts the script's store on a tmpfs of that size.
func (b *bench) smallDisk(ts *testscript.TestScript, neg bool, args []string) {
	s := storeOf(ts)
	if err := unix.Mount("tmpfs", s.root, "tmpfs", 0, "mode=700,size="+args[0]); err != nil {
		ts.Fatalf("mount: %v", err)
	}
	ts.Defer(func() {
		s.finish()
		s.broken = true // it is gone
		if err := unix.Unmount(s.root, 0); err != nil {
			exec.Command("umount", "-l", s.root).Run()
			ts.Logf("%s was busy: %v", s.root, err)
		}
		os.Remove(s.root)
	})
}

// broken says that this script damages its store on purpose.
func (b *bench) markBroken(ts *testscript.TestScript, neg bool, args []string) {
	storeOf(ts).broken = true
}

// clean checks here, and not only at the end, that nothing is left behind.
func (b *bench) clean(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(storeOf(ts).leftovers())
}

// nocase FILE TEXT... checks that a file has each text, in any case.
func nocase(ts *testscript.TestScript, neg bool, args []string) {
	text := strings.ToLower(ts.ReadFile(args[0]))
	for _, want := range args[1:] {
		if strings.Contains(text, strings.ToLower(want)) == neg {
			ts.Fatalf("%s contains %q: %v\n%s", args[0], want, neg, text)
		}
	}
}

// lookPath is exec.LookPath with the directories of administration.
func lookPath(name string) (string, bool) {
	if p, err := exec.LookPath(name); err == nil {
		return p, true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		p := filepath.Join(dir, name)
		if _, err := os.Stat(p); err == nil {
			return p, true
		}
	}
	return "", false
}
