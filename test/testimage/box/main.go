// Box is a static multi-call program for images on machines without busybox: a
// few tools that behave enough like the real ones for the demo and the scripts
// that need no shell.
package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var applets = []string{"cat", "echo", "env", "false", "hostname", "id", "ls", "pwd", "sh", "sleep", "true", "yes"}

func main() {
	name, args := filepath.Base(os.Args[0]), os.Args[1:]
	if !slices.Contains(applets, name) {
		if len(args) == 0 || args[0] == "--list" {
			fmt.Println(strings.Join(applets, "\n"))
			return
		}
		name, args = args[0], args[1:]
	}
	os.Exit(run(name, args))
}

func run(name string, args []string) int {
	switch name {
	case "true":
	case "false":
		return 1
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "env":
		fmt.Println(strings.Join(os.Environ(), "\n"))
	case "hostname":
		h, _ := os.Hostname()
		fmt.Println(h)
	case "id":
		fmt.Printf("uid=%d gid=%d\n", os.Getuid(), os.Getgid())
	case "pwd":
		d, _ := os.Getwd()
		fmt.Println(d)
	case "yes":
		for {
			if _, err := fmt.Println("y"); err != nil {
				return 1
			}
		}
	case "sleep":
		return sleep(args)
	case "ls":
		return ls(args)
	case "cat":
		return cat(args)
	case "sh":
		return sh(args)
	default:
		fmt.Fprintf(os.Stderr, "%s: not found\n", name)
		return 127
	}
	return 0
}

func sleep(args []string) int {
	if len(args) != 1 {
		return 1
	}
	s, err := strconv.ParseFloat(args[0], 64)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT)
	select {
	case sig := <-c:
		return 128 + int(sig.(syscall.Signal))
	case <-time.After(time.Duration(s * float64(time.Second))):
	}
	return 0
}

func ls(args []string) int {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		for _, e := range entries {
			fmt.Println(e.Name())
		}
	}
	return 0
}

func cat(args []string) int {
	if len(args) == 0 {
		io.Copy(os.Stdout, os.Stdin)
	}
	for _, name := range args {
		f, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		io.Copy(os.Stdout, f)
		f.Close()
	}
	return 0
}

// sh runs `;`-separated lines of words, without quotes, variables or pipes.
func sh(args []string) int {
	if len(args) == 2 && args[0] == "-c" {
		return line(args[1])
	}
	in, err := io.ReadAll(os.Stdin)
	if err != nil {
		return 1
	}
	code := 0
	for l := range strings.Lines(string(in)) {
		code = line(l)
	}
	return code
}

func line(text string) int {
	code := 0
	for _, part := range strings.Split(text, ";") {
		f := strings.Fields(part)
		switch {
		case len(f) == 0:
		case f[0] == "exit":
			if len(f) > 1 {
				code, _ = strconv.Atoi(f[1])
			}
			os.Exit(code)
		default:
			code = run(f[0], f[1:])
		}
	}
	return code
}
