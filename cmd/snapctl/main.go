// Command snapctl is what a package calls from inside.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// socket is where units find the daemon; those with the host's root, which may be of
// an instance of its own, are told.
const socket, socketEnv = "/run/tenure/snapctl/snapctl.sock", "TENURE_SNAPCTL_SOCKET"

// reasonEnv is why what calls is run, in a command that is run for a change.
const reasonEnv = "SNAP_LIFECYCLE_REASON"

// reply is what the daemon answers (hook.Reply).
type reply struct {
	Stdout string `json:"stdout"`
	Stderr string `json:"stderr"`
	Status int    `json:"status"`
}

func main() {
	status, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		// A hook that says how far it is does not fail because nobody listens.
		if len(os.Args) > 1 && os.Args[1] == "progress" {
			os.Exit(0)
		}
		os.Exit(1)
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	if about, asked := helpAsked(args); asked {
		if len(args) == 0 { // A hook that is snapctl itself has to fail.
			status = 1
		}
		return status, help(os.Stdout, about)
	}
	if args[0] == "reason" {
		return 0, reason(args[1:])
	}
	args, err = absolute(args)
	if err != nil {
		return 0, err
	}
	conn, err := connect()
	if err != nil {
		return 0, fmt.Errorf("cannot talk to tenured: %w", err)
	}
	defer conn.Close() //nolint:errcheck // Everything has been read.
	if err := json.NewEncoder(conn).Encode(map[string][]string{"args": args}); err != nil {
		return 0, fmt.Errorf("cannot talk to tenured: %w", err)
	}
	var answer reply
	if err := json.NewDecoder(conn).Decode(&answer); err != nil {
		return 0, fmt.Errorf("tenured has not answered: %w", err)
	}
	fmt.Fprint(os.Stderr, answer.Stderr)
	_, err = fmt.Print(answer.Stdout)
	return answer.Status, err
}

const (
	// patience is how long a daemon may be away that is being replaced.
	patience = 10 * time.Second
	knock    = 50 * time.Millisecond
)

// connect waits a little for a daemon that is away: what runs inside of units lives
// through the end of it.
func connect() (net.Conn, error) {
	path := os.Getenv(socketEnv)
	if path == "" {
		path = socket
	}
	for begun := time.Now(); ; time.Sleep(knock) {
		conn, err := new(net.Dialer).DialContext(context.Background(), "unix", path)
		away := errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ENOENT)
		ending := os.Getenv(reasonEnv) == "shutdown" // Then it does not come back.
		if !away || ending || time.Since(begun) > patience {
			return conn, err
		}
	}
}

// absolute is args with the path of the program that is to become a workload: it is
// looked for here, where it is to run.
func absolute(args []string) ([]string, error) {
	at := slices.Index(args, "--") + 1
	if len(args) < 2 || args[0] != "workload" || args[1] != "start" || at == 0 || at == len(args) {
		return args, nil
	}
	path, err := exec.LookPath(args[at])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot start workload: %w", err)
	}
	args = slices.Clone(args)
	args[at] = path
	return args, nil
}

// errNotAsked is that there is no reason.
var errNotAsked = errors.New("nobody has asked this process to end")

// reason prints why the service is being stopped, also when no daemon runs.
func reason(args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("reason takes no argument, and was given %q; it is called as: snapctl reason", strings.Join(args, " "))
	}
	if reason := os.Getenv(reasonEnv); reason != "" {
		fmt.Println(reason)
		return nil
	}
	path := os.Getenv("SNAP_LIFECYCLE_REASON_FILE")
	if path == "" {
		return errNotAsked // Runs of apps get a signal alone.
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return errNotAsked
	}
	if err != nil {
		return fmt.Errorf("read the reason: %w", err)
	}
	fmt.Println(strings.TrimSpace(string(text)))
	return nil
}
