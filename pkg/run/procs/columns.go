package procs

import (
	"fmt"
	"strconv"
	"time"
)

// byName finds a column by the name that -o has for it.
func byName(name string) (column, bool) {
	at := func(title string, n int) (column, bool) {
		return column{title, func(p *Process) string { return p.field(n) }}, true
	}
	col := func(title string, value func(*Process) string) (column, bool) { return column{title, value}, true }
	switch name {
	case "pid", "tgid", "tid", "lwp", "spid":
		return col("PID", func(p *Process) string { return strconv.Itoa(p.pid) })
	case "ppid":
		return at("PPID", 4)
	case "pgid", "pgrp":
		return at("PGID", 5)
	case "sid", "sess", "session":
		return at("SID", 6)
	case "uid": // a name, as ps -f prints it; with -o alone a number
		return col("UID", func(p *Process) string { return p.host.user(p.uids[1]) })
	case "uidn", "euid":
		return col("UID", func(p *Process) string { return p.uids[1] })
	case "user", "euser", "uname":
		return col("USER", func(p *Process) string { return p.host.user(p.uids[1]) })
	case "ruser":
		return col("RUSER", func(p *Process) string { return p.host.user(p.uids[0]) })
	case "ruid":
		return col("RUID", func(p *Process) string { return p.uids[0] })
	case "gid", "egid":
		return col("GID", func(p *Process) string { return p.gids[1] })
	case "group", "egroup":
		return col("GROUP", func(p *Process) string { return p.host.group(p.gids[1]) })
	case "rgroup":
		return col("RGROUP", func(p *Process) string { return p.host.group(p.gids[0]) })
	case "c":
		return col("C", func(p *Process) string { return strconv.Itoa(min(99, int(p.cpu()))) })
	case "%cpu", "pcpu", "cp":
		return col("%CPU", func(p *Process) string { return fmt.Sprintf("%.1f", p.cpu()) })
	case "%mem", "pmem":
		return col("%MEM", func(p *Process) string {
			if p.host.memory == 0 {
				return "0.0"
			}
			return fmt.Sprintf("%.1f", float64(p.rss())/float64(p.host.memory)*100)
		})
	case "stime", "start", "bsdstart":
		title := "STIME"
		if name != "stime" {
			title = "START"
		}
		return col(title, func(p *Process) string { return p.host.since(p.started()) })
	case "lstart":
		return col("STARTED", func(p *Process) string { return p.started().Local().Format(time.ANSIC) })
	case "etime":
		return col("ELAPSED", func(p *Process) string { return elapsedClock(p.elapsed()) })
	case "etimes":
		return col("ELAPSED", func(p *Process) string { return strconv.Itoa(int(p.elapsed() / time.Second)) })
	case "time", "cputime":
		return col("TIME", func(p *Process) string { return clock(p.used()) })
	case "bsdtime":
		return col("TIME", func(p *Process) string {
			s := int(p.used() / time.Second)
			return fmt.Sprintf("%d:%02d", s/60, s%60)
		})
	case "tty", "tt", "tname":
		title := "TTY"
		if name == "tt" {
			title = "TT"
		}
		return col(title, (*Process).tty)
	case "stat":
		return col("STAT", (*Process).flags)
	case "s", "state":
		return col("S", func(p *Process) string { return p.state })
	case "f", "flag", "flags":
		return col("F", func(p *Process) string { return fmt.Sprintf("%x", p.number(9)>>6&7) })
	case "pri":
		return col("PRI", func(p *Process) string { return strconv.FormatInt(60+p.number(18), 10) })
	case "ni", "nice":
		return at("NI", 19)
	case "nlwp", "thcount":
		return col("NLWP", func(p *Process) string { return p.threads })
	case "psr":
		return at("PSR", 39)
	case "rss", "rssize", "rsz":
		return col("RSS", func(p *Process) string { return strconv.FormatInt(p.rss()/1024, 10) })
	case "vsz", "vsize":
		return col("VSZ", func(p *Process) string { return strconv.FormatInt(p.number(23)/1024, 10) })
	case "sz":
		return col("SZ", func(p *Process) string { return strconv.FormatInt(p.number(23)/4096, 10) })
	case "addr", "wchan":
		title := map[string]string{"addr": "ADDR", "wchan": "WCHAN"}[name]
		return col(title, func(*Process) string { return "-" })
	case "comm", "ucomm":
		return col("COMMAND", func(p *Process) string { return p.comm })
	case "ucmd":
		return col("CMD", func(p *Process) string { return p.comm })
	case "cmd":
		return col("CMD", (*Process).command)
	case "args", "command":
		return col("COMMAND", (*Process).command)
	}
	return column{}, false
}

// podmans finds a column by Podman's descriptor. Its pid is the container's.
func podmans(name string) (column, bool) {
	col := func(title string, value func(*Process) string) (column, bool) { return column{title, value}, true }
	switch name {
	case "pid":
		return col("PID", func(p *Process) string { return p.nspid })
	case "hpid":
		return col("HPID", func(p *Process) string { return strconv.Itoa(p.pid) })
	case "huser":
		return col("HUSER", func(p *Process) string { return p.uids[1] })
	case "hgroup":
		return col("HGROUP", func(p *Process) string { return p.gids[1] })
	case "state":
		return col("STATE", func(p *Process) string { return p.state })
	case "user", "ruser", "group", "rgroup", "ppid", "pgid", "pcpu", "etime", "time", "tty", "vsz", "comm", "args", "nice", "rss":
		c, ok := byName(name)
		if name == "pcpu" {
			c.title = "%CPU"
		}
		return c, ok
	}
	return column{}, false
}
