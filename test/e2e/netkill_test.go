package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestNetworkKills ends commands and monitors by SIGKILL while containers with
// networks and ports start, are connected, and stop. Nothing of them stays: no
// port, address, device or rule, and no other container loses its network.
func TestNetworkKills(t *testing.T) {
	b := setUp(t)
	if !b.box.HasShell() {
		t.Skip("busybox is not installed")
	}
	if err := ownNetwork(); err != nil {
		t.Fatal(err)
	}
	s := b.storeFor(t, true)
	must := func(args ...string) string {
		t.Helper()
		out, err := s.cmd(args...).CombinedOutput()
		if err != nil {
			t.Fatalf("cais %v: %v: %s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	must("network", "create", "second")
	// The first makes what all share, and is the first to go.
	must("run", "-d", "--name", "maker", "busybox", "sleep", "1000")
	must("run", "-d", "--name", "keeper", "-p", "7999:80", "busybox", "httpd", "-f", "-p", "80", "-h", "/etc")
	monitor := func(name string) int {
		out, err := s.cmd("inspect", "-f", "{{.State.Pid}}", name).Output()
		if err != nil {
			return 0
		}
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(out)) + "/stat")
		if err != nil {
			return 0
		}
		f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		pid, _ := strconv.Atoi(f[1])
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err != nil || !strings.HasPrefix(string(line), "cais-monitor") {
			return 0
		}
		return pid
	}
	if pid := monitor("maker"); pid > 1 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	} else {
		t.Fatal("the maker has no monitor")
	}
	rounds := 12
	if os.Getenv("CAIS_TORTURE") != "" {
		rounds = 100
	}
	const first = 7300
	for i := range rounds {
		name := fmt.Sprintf("victim%d", i)
		run := s.cmd("run", "-d", "--name", name, "-p", fmt.Sprintf("%d:80", first+i), "busybox", "sleep", "1000")
		pause := time.Duration(rand.IntN(40)) * time.Millisecond
		switch i % 4 {
		case 0, 1: // the command that starts it
			killAfter(run, pause)
		case 2: // its monitor
			_ = run.Run()
			if pid := monitor(name); pid > 1 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		case 3: // who connects it, and who stops it
			_ = run.Run()
			killAfter(s.cmd("network", "connect", "second", name), pause/2)
			killAfter(s.cmd("stop", "-t", "0", name), pause/2)
		}
		// A port that is free again is had again, whatever became of its holder.
		if i%4 == 2 {
			again := name + "again"
			deadline := time.Now().Add(5 * time.Second)
			for {
				out, err := s.cmd("run", "-d", "--name", again, "-p", fmt.Sprintf("%d:80", first+i), "busybox", "sleep", "1000").CombinedOutput()
				if err == nil {
					break
				}
				if time.Now().After(deadline) {
					t.Fatalf("%s: %s", again, out)
				}
				_ = s.cmd("rm", "-f", again).Run()
			}
		}
	}
	if out, err := exec.Command("busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:7999/passwd").CombinedOutput(); err != nil || !strings.Contains(string(out), "root") {
		t.Errorf("the keeper's port: %v: %s", err, out)
	}
	must("run", "--rm", "busybox", "wget", "-q", "-O", "/dev/null", "http://"+must("inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", "keeper")+"/passwd")
	for _, id := range strings.Fields(must("ps", "-aq")) {
		must("rm", "-f", "-t", "0", id)
	}
	must("network", "rm", "second")
	waitUntil(t, "ports are free", func() error {
		for i := range rounds {
			l, err := net.Listen("tcp", fmt.Sprintf("0.0.0.0:%d", first+i))
			if err != nil {
				return err
			}
			l.Close()
		}
		return nil
	})
	waitUntil(t, "no endpoint is held", func() error {
		held, _ := filepath.Glob(filepath.Join(s.root, "run", "net", "*", "*"))
		for _, path := range held {
			f, err := os.Open(path)
			if err != nil {
				continue
			}
			err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
			f.Close()
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		}
		return nil
	})
	if b.person != asRoot {
		return
	}
	waitUntil(t, "no device and no rule is left", func() error {
		out, err := exec.Command("sh", "-c", "ip -o link | grep master; nft list tables | grep -v 'cais-cais' | grep cais").CombinedOutput()
		if len(out) > 0 {
			return fmt.Errorf("%s", out)
		}
		_ = err // grep found nothing
		return nil
	})
}

// killAfter starts cmd and ends it by SIGKILL if it has not ended by then.
func killAfter(cmd *exec.Cmd, d time.Duration) {
	if cmd.Start() != nil {
		return
	}
	kill := time.AfterFunc(d, func() { _ = cmd.Process.Kill() })
	_ = cmd.Wait()
	kill.Stop()
}

func waitUntil(t *testing.T, what string, ok func() error) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if err = ok(); err == nil {
			return
		}
	}
	t.Errorf("%s: %v", what, err)
}
