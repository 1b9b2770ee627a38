package main

import (
	"testing"
	"time"
)

func TestWatchdog(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
	}{
		{"", "", 0},
		{"60000000", "", time.Minute},
		{"60000000", "42", time.Minute},
		{"60000000", "43", 0},
		{"0", "42", 0},
		{"-5", "42", 0},
		{"soon", "42", 0},
	} {
		env := map[string]string{"WATCHDOG_USEC": c.usec, "WATCHDOG_PID": c.pid}
		if got := watchdog(func(name string) string { return env[name] }, 42); got != c.want {
			t.Errorf("%v: %s, want %s", env, got, c.want)
		}
	}
}
