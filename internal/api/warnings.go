package api

import (
	"cmp"
	"fmt"
	"net/http"
	"time"

	"tenure/client"
	"tenure/internal/refresh"
)

// warnings answers with what is not as it should be: that nobody has said is known, or all.
func (s *server) warnings(r *http.Request) (*reply, error) {
	selected := cmp.Or(r.FormValue("select"), "pending")
	if selected != "pending" && selected != "all" {
		return nil, bad(fmt.Sprintf("select should be pending or all; it is %q", selected))
	}
	found, err := s.cfg.Manager.Warnings(r.Context())
	if err != nil {
		return nil, err
	}
	list, now := []client.Warning{}, time.Now()
	for i := range found {
		if w := &found[i]; selected == "all" || w.Pending(now) {
			list = append(list, client.Warning{
				Message: w.Message, FirstAdded: w.Added, LastAdded: w.Added, LastShown: w.Shown,
				ExpireAfter: refresh.RepeatWarning.String(), RepeatAfter: refresh.RepeatWarning.String(),
			})
		}
	}
	return &reply{result: list}, nil
}

// okay remembers that warnings are known.
func (s *server) okay(r *http.Request) (*reply, error) {
	var body struct {
		Action    string    `json:"action"`
		Timestamp time.Time `json:"timestamp"`
	}
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Action != "okay" {
		return nil, bad(fmt.Sprintf("action should be okay; it is %q", body.Action))
	}
	count, err := s.cfg.Manager.Okay(r.Context(), body.Timestamp)
	if err != nil {
		return nil, err
	}
	return &reply{result: count}, nil
}
