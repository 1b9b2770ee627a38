// Command snapctl is what a package calls from inside.
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 || args[0] != "reason" {
		return errors.New("snapctl knows only \"reason\" yet: why the service is being stopped")
	}
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
