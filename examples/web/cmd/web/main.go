// Command web answers which revision and process it is: the service of the example
// package, which hands over to its next generation.
//
// A request for /slow takes as long as its query says ("for=3s"), so that there is
// something to drain. In the version broken-ready it never says that it is ready.
//
//nolint:forbidigo // The whole program is its main: it reads its own environment.
package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"tenure/examples/clients/web"
	"tenure/handover"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "web:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context) error {
	passed, err := handover.Inherit()
	if err != nil {
		return err
	}
	version, err := os.ReadFile(filepath.Join(os.Getenv("SNAP"), "version"))
	if err != nil {
		return err
	}
	answer := web.Answer{Revision: os.Getenv("SNAP_REVISION"), Version: strings.TrimSpace(string(version)), PID: os.Getpid()}
	if answer.Version == "broken-ready" {
		<-ctx.Done()
		return passed.Close()
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { say(w, answer) })
	mux.HandleFunc("/slow", func(w http.ResponseWriter, r *http.Request) {
		delay, err := time.ParseDuration(r.FormValue("for"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.WriteHeader(http.StatusOK)
		if err := http.NewResponseController(w).Flush(); err != nil {
			return
		}
		select {
		case <-time.After(delay):
		case <-r.Context().Done():
		}
		say(w, answer)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second}
	return handover.Serve(ctx, server, passed.All()...)
}

// say answers. A client that has gone does not need to hear it.
func say(w http.ResponseWriter, answer web.Answer) { _, _ = fmt.Fprint(w, answer) }
