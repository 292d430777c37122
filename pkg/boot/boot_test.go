package boot

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cais.dev/cais/pkg/errs"
)

func options(t *testing.T, uid int, systemd bool) (Options, *[]string) {
	t.Helper()
	var ran []string
	table := "5 4 * * * keep me\n"
	o := Options{
		UID: uid, User: "u", Home: "/home/u", Command: []string{"/usr/local/bin/cais", "--root", "/a b%"}, Environ: []string{"CAIS_ROOT=/r"},
		Systemd: systemd, Root: t.TempDir(),
	}
	o.Run = func(_ context.Context, input string, args ...string) (string, error) {
		ran = append(ran, strings.Join(args, " "))
		if args[0] == "crontab" && args[1] == "-" {
			table = input
		}
		return table, nil
	}
	return o, &ran
}

func TestUnits(t *testing.T) {
	for uid, dir := range map[int]string{0: "etc/systemd/system/multi-user.target.wants", 1000: "home/u/.config/systemd/user/default.target.wants"} {
		o, ran := options(t, uid, true)
		for range 2 { // twice is once
			if _, err := Enable(t.Context(), o); err != nil {
				t.Fatal(err)
			}
		}
		link, err := os.Readlink(filepath.Join(o.Root, dir, unit))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(o.Root, link))
		if err != nil || !strings.Contains(string(text), `ExecStart="/usr/local/bin/cais" "--root" "/a b%%" system boot start`) || !strings.Contains(string(text), `Environment="CAIS_ROOT=/r"`) {
			t.Errorf("%s %v", text, err)
		}
		if linger := strings.Contains(strings.Join(*ran, ";"), "enable-linger"); linger != (uid != 0) {
			t.Error(*ran)
		}
		if !Enabled(t.Context(), o) {
			t.Error("not enabled")
		}
		if err := Disable(t.Context(), o); err != nil || Enabled(t.Context(), o) {
			t.Error("still enabled", err)
		}
	}
}

func TestLingerDeniedLeavesNothing(t *testing.T) {
	o, _ := options(t, 1000, true)
	o.Run = func(_ context.Context, _ string, args ...string) (string, error) {
		if args[0] == "loginctl" {
			return "", errors.New("access denied")
		}
		return "", nil
	}
	if _, err := Enable(t.Context(), o); !strings.Contains(errs.HintOf(err), "sudo loginctl enable-linger u") {
		t.Error(err)
	}
	if Enabled(t.Context(), o) {
		t.Error("left behind")
	}
}

func TestCron(t *testing.T) {
	o, _ := options(t, 1000, false)
	for range 2 {
		if _, err := Enable(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	table, _ := o.Run(t.Context(), "", "crontab", "-l")
	if strings.Count(table, mark) != 1 || !strings.Contains(table, "keep me\n") || !strings.Contains(table, `@reboot env 'CAIS_ROOT=/r' '/usr/local/bin/cais' '--root' '/a b\%' system boot start`) {
		t.Error(table)
	}
	if err := Disable(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	if table, _ := o.Run(t.Context(), "", "crontab", "-l"); table != "5 4 * * * keep me\n" {
		t.Errorf("%q", table)
	}
}
