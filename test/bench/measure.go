package main

import (
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// contender is one side of a comparison.
type contender struct {
	name string
	cmd  func() *exec.Cmd
	err  error // why it does not take part
	once bool  // one turn is enough: it is slow, and far from the others
}

// sample is a contender's result: medians.
type sample struct {
	wall, cpu time.Duration
	n         int
}

// interleave lets the contenders take turns, after one turn each that does not
// count; those of one turn have that one, and it counts. One that fails is out, and
// its error kept.
func interleave(rounds int, contenders []contender) map[string]sample {
	walls, cpus := map[string][]time.Duration{}, map[string][]time.Duration{}
	for round := range rounds + 1 {
		for i := range contenders {
			c := &contenders[i]
			if c.err != nil || c.once && round > 0 {
				continue
			}
			cmd := c.cmd()
			start := time.Now()
			out, err := runQuiet(cmd)
			wall := time.Since(start)
			if err != nil {
				c.err = fmt.Errorf("%w: %s", err, out)
				continue
			}
			if round == 0 && !c.once {
				continue
			}
			walls[c.name] = append(walls[c.name], wall)
			cpus[c.name] = append(cpus[c.name], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	samples := map[string]sample{}
	for _, c := range contenders {
		if c.err == nil && len(walls[c.name]) > 0 {
			samples[c.name] = sample{median(walls[c.name]), median(cpus[c.name]), len(walls[c.name])}
		}
	}
	return samples
}

// runQuiet runs cmd with its output in a file of the kernel's, not in a pipe: a
// daemonised grandchild that keeps a pipe open would be waited for.
func runQuiet(cmd *exec.Cmd) (string, error) {
	f, err := memFile()
	if err != nil {
		return "", err
	}
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	if err == nil {
		return "", nil
	}
	buf := make([]byte, 500)
	n, _ := f.ReadAt(buf, 0)
	return string(buf[:n]), err
}

func median(d []time.Duration) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[len(s)/2]
}
