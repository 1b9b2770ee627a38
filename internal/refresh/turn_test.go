package refresh

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"tenure"
	"tenure/internal/hook"
	"tenure/internal/supervise/supervisetest"
)

// What there is to refresh to is worked out for one package after another.
func TestPackagesAskInTurn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, supervisetest.Program{})
	ask, caller := Packages{m: h.Manager}, hook.Caller{Unit: tenure.ServiceUnit("db", "db")}
	if _, err := ask.Pending(t.Context(), caller); err != nil {
		t.Fatal(err)
	}
	done, err := h.asked.Take(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := ask.Pending(ctx, caller)
		ended <- err
	}()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("while another asks: %v", err)
	}
	done()
	if err := ask.HoldRefreshes(t.Context(), caller); err != nil {
		t.Fatal(err)
	}
}

// A source that cannot be read is told of once, and again when it could be in between.
func TestProblemsAreToldOnce(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	a := &automatic{m: New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})}
	one, other := errors.New("one"), errors.New("other")
	for _, problems := range [][]error{{one}, {one}, {one, other}, {other}, nil, {other}} {
		a.tell(t.Context(), problems)
	}
	if got := strings.Count(log.String(), "error=one"); got != 1 {
		t.Errorf("one is told of %d times", got)
	}
	if got := strings.Count(log.String(), "error=other"); got != 2 {
		t.Errorf("the other is told of %d times", got)
	}
}
