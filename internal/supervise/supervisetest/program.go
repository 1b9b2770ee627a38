package supervisetest

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"tenure/internal/supervise"
)

// Program is what a packaged program does. The zero value runs until it is
// signalled, and forks nothing.
type Program struct {
	// Name is shown in its command line, where patterns can match it.
	Name string `json:"name,omitempty"`
	// Print are lines that it writes first.
	Print []string `json:"print,omitempty"`
	// Children are started next, each in a session of its own, and are left behind
	// when the program ends.
	Children []Program `json:"children,omitempty"`
	// Daemonize leaves everything else to a child of its own, and exits with 0 as
	// soon as that runs: the child's parent is then another process.
	Daemonize bool `json:"daemonize,omitempty"`
	// Notify says READY=1 when ReadyAfter is over, and STATUS before it if Status
	// is set.
	Notify     bool          `json:"notify,omitempty"`
	ReadyAfter time.Duration `json:"ready_after,omitempty"`
	Status     string        `json:"status,omitempty"`
	// Say are words of sd_notify(3) that it says before READY=1, each in a datagram of
	// its own, and Add those after it; CHILD is the pid of its last child.
	Say []string `json:"say,omitempty"`
	Add []string `json:"add,omitempty"`
	// Passed makes it say, as its status and before all else, the names of the
	// descriptors that it was passed.
	Passed bool `json:"passed,omitempty"`
	// Store are names under which it stores a descriptor each, before READY=1.
	Store []string `json:"store,omitempty"`
	// Alive is how often it says WATCHDOG=1 when it is ready, with the time Every before
	// each.
	Alive int           `json:"alive,omitempty"`
	Every time.Duration `json:"every,omitempty"`
	// Exits makes it end by itself when RunFor is over: with Code, or by the signal Die
	// ("SIGUSR1").
	Exits  bool          `json:"exits,omitempty"`
	RunFor time.Duration `json:"run_for,omitempty"`
	Code   int           `json:"code,omitempty"`
	Die    string        `json:"die,omitempty"`
	// IgnoreTerm makes SIGTERM do nothing. Otherwise it ends it: at once by the
	// signal, or after TermAfter with the exit status TermCode.
	IgnoreTerm bool          `json:"ignore_term,omitempty"`
	TermAfter  time.Duration `json:"term_after,omitempty"`
	TermCode   int           `json:"term_code,omitempty"`
	// TermSay is what it says first when it is told to end, with CHILD as above.
	TermSay string `json:"term_say,omitempty"`
	// Reload is the status that SIGHUP makes it say, if it says any; without, SIGHUP ends it.
	Reload string `json:"reload,omitempty"`
	// Serve answers every connection on its passed sockets with the pid and a newline.
	Serve bool `json:"serve,omitempty"`
	// Kill is the pid, as an environment variable's name, that it sends SIGTERM to
	// before all else: what a stop command does.
	Kill string `json:"kill,omitempty"`
	// Env are names of environment variables that it prints as NAME=value.
	Env []string `json:"env,omitempty"`
}

// gentle reports whether SIGTERM does not end it at once.
func (p Program) gentle() bool { return p.TermAfter > 0 || p.TermCode != 0 || p.TermSay != "" }

// childWord stands for the pid of a program's last child.
const childWord = "CHILD"

// passedText is the status that tells which descriptors were passed, by their names
// with a colon between them.
func passedText(names string) string { return "passed:" + names }

// programMark is the argument that stands before a program in a command line.
const programMark = "supervisetest-program"

// Command is the command line that runs p in the program at exe.
func (p Program) Command(exe string) supervise.Command {
	text, err := json.Marshal(p)
	if err != nil {
		panic(fmt.Sprintf("encode program: %v", err)) // It is plain data.
	}
	return supervise.Command{Argv: []string{exe, programMark, "name=" + p.Name, string(text)}}
}

// ParseProgram finds the program in a command line.
func ParseProgram(argv []string) (Program, bool) {
	if len(argv) != 4 || argv[1] != programMark || !strings.HasPrefix(argv[2], "name=") {
		return Program{}, false
	}
	var p Program
	if err := json.Unmarshal([]byte(argv[3]), &p); err != nil {
		return Program{}, false
	}
	return p, true
}
