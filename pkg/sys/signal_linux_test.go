package sys

import (
	"os"
	"syscall"
	"testing"
)

func TestParseSignal(t *testing.T) {
	for s, want := range map[string]syscall.Signal{
		"TERM": 15, "SIGTERM": 15, "sigterm": 15, "15": 15, "KILL": 9, "HUP": 1, "USR1": 10, "IO": 29, "POLL": 29,
		"RTMIN": 34, "SIGRTMIN+3": 37, "RTMAX-1": 63, "RTMAX": 64, "64": 64,
		"": 0, "BAD": 0, "0": 0, "65": 0, "-1": 0, "RTMIN+99": 0, "RTMIN-1": 0, "SIG": 0, "RT": 0,
	} {
		got, err := ParseSignal(s)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("ParseSignal(%q) = %d, %v; want %d", s, got, err, want)
		}
	}
}

func TestSignalProcessLooksAtTheStartTime(t *testing.T) {
	start, err := ProcessStart(os.Getpid())
	if err != nil || start == 0 {
		t.Fatal(start, err)
	}
	if err := SignalProcess(os.Getpid(), start, 0); err != nil {
		t.Errorf("this process: %v", err)
	}
	if err := SignalProcess(os.Getpid(), start+1, 0); err != syscall.ESRCH {
		t.Errorf("another with the same pid: %v, want ESRCH", err)
	}
}
