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
	// Exits makes it end by itself, with Code, when RunFor is over.
	Exits  bool          `json:"exits,omitempty"`
	RunFor time.Duration `json:"run_for,omitempty"`
	Code   int           `json:"code,omitempty"`
	// IgnoreTerm makes SIGTERM do nothing. Otherwise it ends it: at once by the
	// signal, or after TermAfter with the exit status TermCode.
	IgnoreTerm bool          `json:"ignore_term,omitempty"`
	TermAfter  time.Duration `json:"term_after,omitempty"`
	TermCode   int           `json:"term_code,omitempty"`
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
