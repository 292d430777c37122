package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cais.dev/cais/pkg/network/nettest"
)

// The network's figures are measured in a network of the bench's own: a world
// outside with a server, a host, and on it each contender. What it costs is the
// processor time of all processes that have a part in it: client, server, and
// whatever is between them. This program is client and server, too.

// netResult is what a client says in the end.
type netResult struct {
	Bytes   int64
	Seconds float64
	Median  float64 // of round trips or of connections, in seconds
	Lost    int
}

// netPart is this program as one of the two sides: "serve ADDRESS", which ends with
// its input, "send", "recv", "ping", "ping1", "connect", "idle", "burst" ADDRESS.
func netPart(args []string) error {
	runtime.GOMAXPROCS(1)
	in := bufio.NewReader(os.Stdin)
	if args[0] == "serve" {
		go func() {
			_, _ = io.Copy(io.Discard, in)
			os.Exit(0)
		}()
		return netServe(args[1])
	}
	fmt.Println("ready")
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	r, err := netClient(args[0], args[1])
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	_, _ = in.ReadString('\n') // until the time has been taken
	return nil
}

func netServe(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			kind := make([]byte, 1)
			if _, err := io.ReadFull(c, kind); err != nil {
				return
			}
			buf := make([]byte, 128<<10)
			for {
				switch kind[0] {
				case 's':
					_, err = c.Read(buf)
				case 'r':
					_, err = c.Write(buf)
				default:
					if _, err = io.ReadFull(c, buf[:64]); err == nil {
						_, err = c.Write(buf[:64])
					}
				}
				if err != nil {
					return
				}
			}
		}()
	}
}

const netSeconds = 2.0

func netClient(mode, address string) (r netResult, err error) {
	dial := func() (net.Conn, error) {
		c, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err == nil {
			_, err = c.Write([]byte(mode[:1]))
		}
		return c, err
	}
	start := time.Now()
	since := func() float64 { return time.Since(start).Seconds() }
	var times []float64
	buf := make([]byte, 128<<10)
	switch mode {
	case "send", "recv":
		c, err := dial()
		if err != nil {
			return r, err
		}
		for since() < netSeconds {
			var n int
			if mode == "send" {
				n, err = c.Write(buf)
			} else {
				n, err = c.Read(buf)
			}
			if err != nil {
				return r, err
			}
			r.Bytes += int64(n)
		}
		r.Seconds = since()
		c.Close()
		return r, nil
	case "ping", "ping1":
		c, err := dial()
		if err != nil {
			return r, err
		}
		for since() < netSeconds/2 {
			t := time.Now()
			if _, err := c.Write(buf[:64]); err != nil {
				return r, err
			}
			if _, err := io.ReadFull(c, buf[:64]); err != nil {
				return r, err
			}
			times = append(times, time.Since(t).Seconds())
		}
	case "connect": // few: those that have ended hold the host's ports for a minute
		for range 500 {
			t := time.Now()
			c, err := net.Dial("tcp", address)
			if err != nil {
				return r, err
			}
			times = append(times, time.Since(t).Seconds())
			c.Close()
		}
	case "burst": // three thousand at once, each with a question
		lost := make(chan bool)
		for range 3000 {
			go func() {
				c, err := dial()
				if err == nil {
					_, err = c.Write(make([]byte, 64))
				}
				if err == nil {
					_, err = io.ReadFull(c, make([]byte, 64))
				}
				lost <- err != nil
			}()
		}
		for range 3000 {
			if <-lost {
				r.Lost++
			}
		}
		r.Seconds = since()
		return r, nil
	case "idle": // a thousand that are there, and still are later
		var all []net.Conn
		for range 1000 {
			c, err := dial()
			if err != nil {
				r.Lost++
				continue
			}
			all = append(all, c)
		}
		for _, c := range all {
			if _, err := c.Write(buf[:64]); err != nil {
				r.Lost++
			} else if _, err := io.ReadFull(c, buf[:64]); err != nil {
				r.Lost++
			}
		}
		r.Seconds = since()
		return r, nil
	}
	slices.Sort(times)
	r.Median = times[len(times)/2]
	return r, nil
}

// netPeer is a contender: how a program is run behind its network.
type netPeer struct {
	name string
	exes []string // whose processes count
	cmd  func(port string, args ...string) *exec.Cmd
	far  bool // a daemon starts it: on which processor is not for us to say
	err  error
}

// cpuOf sums the processor time of living processes of these programs, but ours.
// Programs are compared as files: in a container's mounts they have other paths.
func cpuOf(exes []string) time.Duration {
	var programs []os.FileInfo
	for _, path := range exes {
		if info, err := os.Stat(path); err == nil {
			programs = append(programs, info)
		}
	}
	var sum time.Duration
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		exe, err := os.Stat("/proc/" + e.Name() + "/exe")
		if err == nil && slices.ContainsFunc(programs, func(p os.FileInfo) bool { return os.SameFile(p, exe) }) {
			sum += cpuClock(pid)
		}
	}
	return sum
}

// cpuClock is the processor time of a process, with that of threads that ended.
func cpuClock(pid int) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// netRun runs one client and returns its result with the time that all took.
func netRun(cmd *exec.Cmd, exes []string, one bool) (r netResult, cpu time.Duration, err error) {
	in, err := cmd.StdinPipe()
	if err != nil {
		return r, 0, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return r, 0, err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := onOne(one, cmd.Start); err != nil {
		return r, 0, err
	}
	kill := time.AfterFunc(20*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	lines := bufio.NewReader(out)
	if _, err = lines.ReadString('\n'); err == nil {
		before := cpuOf(exes)
		_, _ = in.Write([]byte("go\n"))
		var text string
		if text, err = lines.ReadString('\n'); err == nil {
			cpu = cpuOf(exes) - before
			err = json.Unmarshal([]byte(text), &r)
		}
	}
	in.Close()
	if e := cmd.Wait(); err == nil {
		err = e
	}
	if err != nil {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return r, cpu, err
}

// network measures cais' networks beside what else a user has.
func (b *bench) network() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root")
	}
	runtime.LockOSThread() // never unlocked: this thread stays in the network of the bench
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return err
	}
	defer func() { _ = unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); runtime.UnlockOSThread() }()
	world, err := nettest.Wire()
	if err != nil {
		return err
	}
	self := filepath.Join(b.programs, "part")
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	if out, err := exec.Command("install", "-m", "0755", exe, self).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	for _, port := range []string{netAny, netOne} {
		server := exec.Command(self, "net", "serve", ":"+port)
		in, err := server.StdinPipe()
		if err == nil {
			err = world.In(func() error { return onOne(port == netOne, server.Start) })
		}
		if err != nil {
			return err
		}
		defer func() { in.Close(); _ = server.Wait() }()
	}
	user, err := b.somebody()
	if err != nil {
		return err
	}
	root, err := b.rootWho()
	if err != nil {
		return err
	}
	slirp, _ := lookPath("slirp4netns")
	var dockerd *exec.Cmd
	peers := []*netPeer{
		netEngine("cais", b.ours(user), self, b.cais), b.netPasta(user, self), b.netSlirp(user, self),
		netEngine("podman", b.podman(user), self, slirp, "/usr/lib/podman/rootlessport", "/usr/libexec/podman/rootlessport"),
		netEngine("cais, root", b.ours(root), self, b.cais),
		netEngine("docker, root", b.dockerAt("dn", &dockerd), self, "/usr/sbin/docker-proxy", "/usr/bin/docker-proxy"),
	}
	peers[len(peers)-1].far = true
	b.netOut(peers)
	for _, one := range []bool{false, true} {
		b.netIn(peers, self, world, one)
	}
	return b.netSetUp(user, root)
}

// The ports of the two servers in the world: one runs on any processor, one on the
// first.
const netAny, netOne = "7000", "7002"

// onOne runs start so that what it starts stays on the first processor: there
// nobody waits for another processor to wake up, which takes longer than all else.
func onOne(one bool, start func() error) error {
	if !one {
		return start()
	}
	var all, first unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return err
	}
	first.Set(0)
	if err := unix.SchedSetaffinity(0, &first); err != nil {
		return err
	}
	defer func() { _ = unix.SchedSetaffinity(0, &all) }() // it was so before
	return start()
}

// openTun gives the bench's mount namespace a tun device for everybody. Podman
// keeps a user's mount namespace, so that it comes before podman.
func openTun(dir string) error {
	path := filepath.Join(dir, "tun")
	if err := unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))); err != nil {
		return err
	}
	if err := os.Chmod(path, 0o666); err != nil {
		return err
	}
	return unix.Mount(path, "/dev/net/tun", "", unix.MS_BIND, "")
}

// netEngine is a container engine; exes are its programs that bytes pass.
func netEngine(name string, p *peer, self string, exes ...string) *netPeer {
	return &netPeer{name: name, err: p.err, exes: append(exes, self), cmd: func(port string, args ...string) *exec.Cmd {
		run := []string{"run", "--rm", "-i", "-v", self + ":/part:ro"}
		if port != "" {
			run = append(run, "-p", port+":7001")
		}
		return p.cmd(append(append(run, "busybox", "/part", "net"), args...)...)
	}}
}

// unpaced is a shell's line that runs its arguments without the host's congestion
// control, where that is one that paces: pasta and slirp4netns are ten times
// slower with bbr behind them.
const unpaced = `echo reno >/proc/sys/net/ipv4/tcp_congestion_control; exec "$@"`

func (b *bench) netPasta(w *who, self string) *netPeer {
	path, ok := lookPath("pasta")
	p := &netPeer{name: "pasta"}
	if !ok {
		p.err = errNotInstalled
		return p
	}
	real, err := filepath.EvalSymlinks(path)
	p.err = err
	p.exes = []string{real, real + ".avx2", self}
	p.cmd = func(port string, args ...string) *exec.Cmd {
		run := []string{"--config-net", "-q", "--no-map-gw"} // its gateway would be the host
		if port != "" {
			run = append(run, "-t", port+":7001")
		}
		cmd := exec.Command(path, append(append(run, "--", "sh", "-c", unpaced, "sh", self, "net"), args...)...)
		cmd.Env, cmd.SysProcAttr = w.env(), &syscall.SysProcAttr{Credential: w.cred}
		return cmd
	}
	return p
}

func (b *bench) netSlirp(w *who, self string) *netPeer {
	path, ok := lookPath("slirp4netns")
	p := &netPeer{name: "slirp4netns", exes: []string{path, self}}
	if !ok {
		p.err = errNotInstalled
		return p
	}
	p.cmd = func(port string, args ...string) *exec.Cmd {
		if port != "" {
			return nil
		}
		script := `unshare -Urn --kill-child sh -c 'echo $$ > "$0"; until ip route | grep -q default; do sleep 0.05; done; ` + unpaced + `' "$1" "$2" net "$3" "$4" <&3 &
until [ -s "$1" ]; do sleep 0.05; done
"$0" -c --mtu=65520 --disable-dns $(cat "$1") tap0 >/dev/null 2>&1 & s=$!
wait %1; kill $s; wait $s 2>/dev/null; true`
		f := filepath.Join(w.home, "slirp"+strconv.FormatInt(time.Now().UnixNano(), 36))
		cmd := exec.Command("sh", append([]string{"-c", "exec 3<&0; " + script, path, f, self}, args...)...)
		cmd.Env, cmd.SysProcAttr = w.env(), &syscall.SysProcAttr{Credential: w.cred}
		return cmd
	}
	return p
}

// netSum gathers the rounds of one contender.
type netSum struct{ rate, cost, latency []float64 }

func mid(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}

// netOut measures from the inside out.
func (b *bench) netOut(peers []*netPeer) {
	rounds := max(1, b.rounds/12)
	// What makes many connections comes last: it uses up the host's own ports.
	for _, mode := range []string{"send", "recv", "ping", "ping1", "connect", "idle", "burst"} {
		one, port := mode == "ping1", netAny
		if one {
			port = netOne
		}
		sums := map[string]*netSum{}
		lost := map[string]int{}
		for range rounds {
			for _, p := range peers {
				if p.err != nil || one && p.far {
					continue
				}
				r, cpu, err := netRun(p.cmd("", mode, net.JoinHostPort(nettest.World4, port)), p.exes, one)
				if err != nil {
					p.err = fmt.Errorf("%s: %w", mode, err)
					continue
				}
				if sums[p.name] == nil {
					sums[p.name] = &netSum{}
				}
				sums[p.name].add(r, cpu)
				lost[p.name] += r.Lost
			}
			if mode == "idle" || mode == "burst" {
				break
			}
		}
		b.netRows("out", mode, sums, lost)
	}
	for _, p := range peers {
		if p.err != nil {
			b.missing = append(b.missing, "network: "+p.name+": "+firstLine(p.err))
		}
	}
}

func (s *netSum) add(r netResult, cpu time.Duration) {
	if r.Bytes > 0 {
		s.rate = append(s.rate, float64(r.Bytes)/r.Seconds)
		s.cost = append(s.cost, cpu.Seconds()/float64(r.Bytes)*1e9)
	}
	if r.Median > 0 {
		s.latency = append(s.latency, r.Median)
	}
}

// netIn measures a published port, from the world.
func (b *bench) netIn(peers []*netPeer, self string, world *nettest.Place, one bool) {
	modes := []string{"send", "recv", "ping", "connect"}
	if one {
		modes = []string{"ping1"}
	}
	sums := map[string]map[string]*netSum{}
	for range max(1, b.rounds/12) {
		for i, p := range peers {
			if p.err != nil || one && p.far {
				continue
			}
			port := strconv.Itoa(7100 + i)
			serve := p.cmd(port, "serve", ":7001")
			if serve == nil {
				continue
			}
			in, err := serve.StdinPipe()
			if err == nil {
				err = onOne(one, serve.Start)
			}
			if err != nil {
				p.err = err
				continue
			}
			for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				c, err := world.Dial("tcp", net.JoinHostPort(nettest.Host4, port))
				if err != nil {
					continue
				}
				_, _ = c.Write(append([]byte("p"), make([]byte, 64)...))
				_ = c.SetDeadline(time.Now().Add(time.Second))
				_, err = io.ReadFull(c, make([]byte, 64))
				c.Close()
				if err == nil {
					break
				}
			}
			for _, mode := range modes {
				cmd := exec.Command(self, "net", mode, net.JoinHostPort(nettest.Host4, port))
				var r netResult
				var cpu time.Duration
				err := world.In(func() (err error) { r, cpu, err = netRun(cmd, p.exes, one); return err })
				if err != nil {
					b.missing = append(b.missing, "network: "+p.name+", published, "+mode+": "+firstLine(err))
					continue
				}
				if sums[mode] == nil {
					sums[mode] = map[string]*netSum{}
				}
				if sums[mode][p.name] == nil {
					sums[mode][p.name] = &netSum{}
				}
				sums[mode][p.name].add(r, cpu)
			}
			in.Close()
			_ = serve.Process.Signal(syscall.SIGTERM)
			stop := time.AfterFunc(3*time.Second, func() { _ = serve.Process.Kill() })
			_ = serve.Wait()
			stop.Stop()
		}
	}
	for _, mode := range modes {
		b.netRows("published", mode, sums[mode], nil)
	}
}

// netRows adds the lines of one measurement.
func (b *bench) netRows(way, mode string, sums map[string]*netSum, lost map[string]int) {
	ours := sums["cais"]
	if ours == nil {
		return
	}
	line := func(what, peer string, ours, theirs float64, atLeast bool, target float64, unit string, scale float64) {
		if ours == 0 || theirs == 0 {
			return
		}
		v := ours / theirs
		r := row{what: what, value: fmt.Sprintf("%.2fx", v), detail: fmt.Sprintf("%s: %.3g / %.3g %s", peer, ours*scale, theirs*scale, unit), target: "-"}
		if target > 0 {
			sign, ok := "≤", v <= target
			if atLeast {
				sign, ok = "≥", v >= target
			}
			r.target, r.verdict = fmt.Sprintf("%s %gx", sign, target), verdict(ok)
		}
		b.rows = append(b.rows, r)
	}
	for _, peer := range []string{"pasta", "slirp4netns", "podman", "cais, root", "docker, root"} {
		p := sums[peer]
		if p == nil {
			continue
		}
		rate, cost, latency := 0.0, 0.0, 0.0
		switch peer {
		case "pasta":
			rate, cost, latency = 2, 1.2, 1.4
			if mode == "connect" || way == "published" {
				rate = 0
			}
			if mode == "connect" {
				latency = 0
			}
		case "cais, root":
			cost = 1.5
		}
		name := map[string]string{"send": "sending", "recv": "receiving", "ping": "round trip of 64 bytes", "ping1": "round trip of 64 bytes on one processor", "connect": "connecting"}[mode] + ", " + way
		line("network, "+name+": throughput", peer, mid(ours.rate), mid(p.rate), true, rate, "GB/s", 1e-9)
		line("network, "+name+": CPU per GB", peer, mid(ours.cost), mid(p.cost), false, cost, "s", 1)
		line("network, "+name, peer, mid(ours.latency), mid(p.latency), false, latency, "µs", 1e6)
	}
	if what := map[string]string{"idle": "1,000 idle connections", "burst": "a burst of 3,000 connections"}[mode]; what != "" {
		b.rows = append(b.rows, row{what: "network: " + what, value: fmt.Sprintf("%d lost", lost["cais"]), target: "0", verdict: verdict(lost["cais"] == 0)})
	}
}

// netSetUp measures what a network adds to a start, and what an idle one holds.
func (b *bench) netSetUp(user, root *who) error {
	for _, w := range []struct {
		name   string
		who    *who
		target float64
	}{{"rootless", user, 5}, {"root", root, 3}} {
		p := b.ours(w.who)
		if p.err != nil {
			return p.err
		}
		// One that lives: the user's namespace and the gateway are there.
		p.must("run", "-d", "--name", "first", "busybox", "sleep", "10000")
		var cost [2][]float64
		var pss []float64
		for range b.rounds / 2 {
			for i, network := range []string{"none", "bridge"} {
				cmd := p.cmd("run", "-d", "--name", "bench", "--network", network, "busybox", "sleep", "10000")
				if out, err := runQuiet(cmd); err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				m, err := monitorOf(p, "bench")
				if err != nil {
					return err
				}
				cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime() + cpuClock(m)
				cost[i] = append(cost[i], cpu.Seconds()*1e3)
				if i == 1 {
					pss = append(pss, pssOf(m))
				}
				p.must("rm", "-f", "-t", "0", "bench")
			}
		}
		p.must("rm", "-f", "-t", "0", "first")
		if p.err != nil {
			return p.err
		}
		v := mid(cost[1]) - mid(cost[0])
		b.rows = append(b.rows, row{what: "network, set-up, " + w.name, value: fmt.Sprintf("%.1f ms CPU", v), target: fmt.Sprintf("≤ %g ms", w.target), verdict: verdict(v <= w.target),
			detail: fmt.Sprintf("`--network none`: %.1f / %.1f ms", mid(cost[1]), mid(cost[0]))})
		if w.name == "rootless" {
			b.rows = append(b.rows, row{what: "monitor with an idle relay, PSS", value: fmt.Sprintf("%.1f MB", mid(pss)), target: "≤ 6 MB", verdict: verdict(mid(pss) <= 6)})
		}
	}
	return nil
}

// monitorOf finds the monitor of a container: the parent of its first process.
func monitorOf(p *peer, name string) (int, error) {
	out, err := p.cmd("inspect", "-f", "{{.State.Pid}}", name).Output()
	if err != nil {
		return 0, err
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(out)) + "/stat")
	if err != nil {
		return 0, err
	}
	f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return strconv.Atoi(f[1])
}

func pssOf(pid int) float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for l := range strings.Lines(string(data)) {
		if f := strings.Fields(l); len(f) > 1 && f[0] == "Pss:" {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb / 1e3
		}
	}
	return 0
}
