package api

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"tenure/internal/refresh"
)

// What is work for the daemon is done for one after another of those who are not
// administrators, and for these at once.
func TestInTurn(t *testing.T) {
	t.Parallel()
	s := &server{turn: refresh.NewTurn(), admins: -1}
	begun, end := make(chan struct{}, 1), make(chan struct{})
	work := s.inTurn(func(*http.Request) (*reply, error) {
		begun <- struct{}{}
		<-end
		return &reply{}, nil
	})
	request := func(ctx context.Context, uid uint32) *http.Request {
		return httptest.NewRequestWithContext(context.WithValue(ctx, peerKey{}, peer{uid: uid}), http.MethodGet, "/", nil)
	}
	ended := make(chan error, 2)
	run := func(uid uint32) {
		go func() {
			_, err := work(request(t.Context(), uid))
			ended <- err
		}()
		<-begun
	}
	run(1000)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := work(request(ctx, 1001)); !errors.Is(err, context.Canceled) {
		t.Errorf("beside another: %v", err)
	}
	run(0)
	close(end)
	run(1001)
	for range 3 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}
