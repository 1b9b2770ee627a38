package api

import (
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
)

// caught answers for a handler that panics, and tells the log why: a mistake of ours is to
// be seen, and ends one request. An answer that has begun is cut off, so that nobody takes it
// for whole.
func (s *server) caught(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		noted := &begun{ResponseWriter: w}
		defer func() {
			panicked := recover()
			if panicked == nil {
				return
			}
			if panicked == http.ErrAbortHandler { //nolint:errorlint,err113 // It is this value that net/http knows.
				panic(panicked)
			}
			s.cfg.Logger.Error("a request has panicked", slog.String("method", r.Method), slog.String("path", r.URL.Path),
				slog.Any("panic", panicked), slog.String("stack", string(debug.Stack())))
			if noted.begun {
				panic(http.ErrAbortHandler)
			}
			s.fail(w, fmt.Errorf("%s %s: tenured has made a mistake; its log says more", r.Method, r.URL.Path)) //nolint:err113 // For people.
		}()
		next.ServeHTTP(noted, r)
	})
}

// begun notes that an answer has begun.
type begun struct {
	http.ResponseWriter

	begun bool
}

func (b *begun) WriteHeader(status int) {
	b.begun = true
	b.ResponseWriter.WriteHeader(status)
}

func (b *begun) Write(p []byte) (int, error) {
	b.begun = true
	return b.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach what is below, which may flush.
func (b *begun) Unwrap() http.ResponseWriter { return b.ResponseWriter }
