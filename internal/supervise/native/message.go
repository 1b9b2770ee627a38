package native

import (
	"strconv"
	"strings"
	"time"
)

// notification is what one datagram of sd_notify(3) says.
type notification struct {
	Ready, Reloading, Stopping bool
	// Status is the new text; HasStatus tells an empty one from none.
	Status    string
	HasStatus bool
	MainPID   int
	// Watchdog is a sign of life; Trigger asks for the watchdog's action;
	// WatchdogEvery sets another interval.
	Watchdog, Trigger bool
	WatchdogEvery     time.Duration
	ExtendTimeout     time.Duration
	Store, Remove     bool
	Name              string
	Barrier           bool
	// Word is the supervisor's own.
	Word string
}

// barrierName is what stands before a word of the supervisor to itself.
const barrierName = "X_TENURE_BARRIER"

// maxNotification bounds a datagram; systemd's own limit is one page.
const maxNotification = 4096

// maxText bounds what a service says of itself.
const maxText = 512

// parseNotification reads lines of NAME=value. Unknown names and malformed
// values are passed over, as sd_notify(3) lets senders expect.
func parseNotification(datagram []byte) notification {
	var n notification
	for line := range strings.SplitSeq(string(datagram), "\n") {
		name, value, ok := strings.Cut(line, "=")
		if ok {
			n.set(name, value)
		}
	}
	return n
}

func (n *notification) set(name, value string) {
	switch name {
	case "READY":
		n.Ready = value == "1"
	case "RELOADING":
		n.Reloading = value == "1"
	case "STOPPING":
		n.Stopping = value == "1"
	case "STATUS":
		n.Status, n.HasStatus = printable(value), true
	case "MAINPID":
		if pid, err := strconv.ParseInt(value, 10, 32); err == nil && pid > 0 {
			n.MainPID = int(pid)
		}
	case "WATCHDOG":
		n.Watchdog, n.Trigger = value == "1", value == "trigger"
	case "WATCHDOG_USEC":
		n.WatchdogEvery = microseconds(value)
	case "EXTEND_TIMEOUT_USEC":
		n.ExtendTimeout = microseconds(value)
	case "FDSTORE":
		n.Store = value == "1"
	case "FDSTOREREMOVE":
		n.Remove = value == "1"
	case "FDNAME":
		if validFDName(value) {
			n.Name = value
		}
	case "BARRIER":
		n.Barrier = value == "1"
	case barrierName:
		n.Word = value
	}
}

// maxMicroseconds keeps a time given by a service within a time.Duration.
const maxMicroseconds = int64(1<<63-1) / int64(time.Microsecond)

// microseconds reads a positive number; anything else is 0.
func microseconds(s string) time.Duration {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n <= 0 || n > maxMicroseconds {
		return 0
	}
	return time.Duration(n) * time.Microsecond
}

// validFDName is the rule of sd_pid_notify_with_fds(3): printable ASCII
// without ":" and at most 255 characters.
func validFDName(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ':' })
}

// printable keeps what may be shown on a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return s
}
