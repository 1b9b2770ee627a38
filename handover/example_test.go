package handover_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tenure/handover"
)

// A service that hands over: it takes the sockets that it is passed, and serves
// until it is told to end.
func Example() {
	serve := func() error {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		passed, err := handover.Inherit()
		if err != nil {
			return err
		}
		server := &http.Server{
			Handler:           http.FileServer(http.Dir(os.Getenv("SNAP") + "/pages")),
			ReadHeaderTimeout: 10 * time.Second,
			IdleTimeout:       30 * time.Second, // Shorter than drain-timeout.
		}
		return handover.Serve(ctx, server, passed.All()...)
	}
	fmt.Println(serve())
	// Output: serve: no listener was given
}

// What must outlive one generation is given to the supervisor, which passes it to
// the next one.
func ExampleKeep() {
	ctx := context.Background()
	passed, err := handover.Inherit()
	if err != nil {
		fmt.Println(err)
		return
	}
	if len(passed.Files["cache"]) == 0 {
		file, err := os.CreateTemp("", "cache")
		if err != nil {
			fmt.Println(err)
			return
		}
		defer os.Remove(file.Name()) //nolint:errcheck // It lives on as long as somebody keeps it.
		passed.Files["cache"] = []*os.File{file}
		if err := handover.Keep(ctx, "cache", file); err != nil {
			fmt.Println(err)
			return
		}
	}
	fmt.Println(len(passed.Files["cache"]))
	// Output: 1
}
