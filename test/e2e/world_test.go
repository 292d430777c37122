package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/network/nettest"
)

// Root's scripts make bridges, rules and settings of the host's network. So all
// tests of root, and of the users that he runs them as, live in a network of their
// own, connected to one that stands for the world outside:
//
//	http://WORLD/            says hello to the address that it sees
//	http://WORLD/get?URL     asks URL, from outside
//	http://WORLD/udp?ADDRESS sends a datagram to ADDRESS, and says what was answered
//	UDP port 7 of WORLD      sends back what it gets
//
// worldEnv is set in there; hostNet is the descriptor of the machine's own network.
const (
	worldEnv = "CAIS_E2E_WORLD"
	hostNet  = 3
)

// elsewhere runs the tests again in a network of their own, for root. There it
// makes the world and is not done.
func elsewhere() (code int, done bool) {
	// TestReal works without root, and wants the internet.
	if os.Geteuid() != 0 || os.Getenv("CAIS_E2E_REAL") != "" {
		return 0, false
	}
	if os.Getenv(worldEnv) != "" {
		syscall.CloseOnExec(hostNet)
		if err := makeWorld(); err != nil {
			fmt.Fprintln(os.Stderr, "the world outside: ", err)
			return 1, true
		}
		return 0, false
	}
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), worldEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{own}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT) // they reach the tests, which end
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1, true
	}
	return cmd.ProcessState.ExitCode(), true
}

// inHostNet makes cmd run in the machine's own network.
func inHostNet(cmd *exec.Cmd) *exec.Cmd {
	if os.Getenv(worldEnv) == "" {
		return cmd
	}
	return exec.Command("nsenter", append([]string{fmt.Sprintf("--net=/proc/%d/fd/%d", os.Getpid(), hostNet)}, cmd.Args...)...)
}

// ownNetwork moves the calling goroutine, and what it starts from here on, into a
// network of its own with a world outside: stores know nothing of each other's
// addresses, and root's share the host's bridges. Others have a gateway of their
// own anyway.
func ownNetwork() error {
	if os.Geteuid() != 0 || os.Getenv(worldEnv) == "" {
		return nil
	}
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	return makeWorld()
}

// makeWorld connects this network with a new one, and puts servers there.
func makeWorld() error {
	w, err := nettest.Wire()
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(_ context.Context, network, address string) (net.Conn, error) { return w.Dial(network, address) },
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintf(rw, "hello %s\n", host)
	})
	mux.HandleFunc("/get", func(rw http.ResponseWriter, r *http.Request) {
		resp, err := client.Get(r.URL.RawQuery)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		defer resp.Body.Close()
		_, _ = io.Copy(rw, resp.Body)
	})
	mux.HandleFunc("/udp", func(rw http.ResponseWriter, r *http.Request) {
		c, err := w.Dial("udp", r.URL.RawQuery)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(3 * time.Second))
		buf := make([]byte, 2000)
		_, err = c.Write([]byte("ping\n"))
		n := 0
		if err == nil {
			n, err = c.Read(buf)
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadGateway)
			return
		}
		_, _ = rw.Write(buf[:n])
	})
	for _, ip := range []string{nettest.World4, nettest.World6} {
		var l net.Listener
		var u net.PacketConn
		err := w.In(func() (err error) {
			if l, err = net.Listen("tcp", nettest.Addr(ip, 80)); err == nil {
				u, err = net.ListenPacket("udp", nettest.Addr(ip, 7))
			}
			return err
		})
		if err != nil {
			return err
		}
		go func() { _ = http.Serve(l, mux) }()
		go func() {
			buf := make([]byte, 70000)
			for {
				n, a, err := u.ReadFrom(buf)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(buf[:n], a)
			}
		}()
	}
	return nil
}
