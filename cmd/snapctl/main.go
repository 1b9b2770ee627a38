// Command snapctl is what a package calls from inside.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// socket is where units find the daemon; those with the host's root, which may be of
// an instance of its own, are told.
const socket, socketEnv = "/run/tenure/snapctl/snapctl.sock", "TENURE_SNAPCTL_SOCKET"

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
		os.Exit(1)
	}
	os.Exit(status)
}

func run(args []string) (status int, err error) {
	if len(args) == 1 && args[0] == "reason" {
		return 0, reason()
	}
	path := os.Getenv(socketEnv)
	if path == "" {
		path = socket
	}
	conn, err := new(net.Dialer).DialContext(context.Background(), "unix", path)
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

// reason prints why the service is being stopped, also when no daemon runs.
func reason() error {
	if reason := os.Getenv("SNAP_LIFECYCLE_REASON"); reason != "" {
		fmt.Println(reason)
		return nil
	}
	path := os.Getenv("SNAP_LIFECYCLE_REASON_FILE")
	if path == "" {
		return errors.New("this process belongs to no unit of Tenure")
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return errors.New("nobody has asked the service to stop")
	}
	if err != nil {
		return fmt.Errorf("read the reason: %w", err)
	}
	fmt.Println(strings.TrimSpace(string(text)))
	return nil
}
