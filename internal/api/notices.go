package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"tenure"
	"tenure/client"
	"tenure/internal/notice"
	"tenure/internal/refresh"
)

// notices answers with what has happened; with a timeout, as soon as there is something.
func (s *server) notices(r *http.Request) (*reply, error) {
	filter, timeout, err := s.noticeFilter(r)
	if err != nil {
		return nil, err
	}
	book := s.cfg.Manager.Notices()
	found := book.List(filter)
	if timeout > 0 && len(found) == 0 {
		serving, stop := s.whileServing(r.Context())
		defer stop()
		ctx, cancel := context.WithTimeout(serving, timeout)
		defer cancel()
		began := time.Now()
		found, err = book.Wait(ctx, filter)
		switch {
		case err == nil:
		case elsewhere(serving) != nil:
			return nil, &againError{uri: withTimeout(r, timeout-time.Since(began))}
		case !errors.Is(err, context.DeadlineExceeded) || serving.Err() != nil:
			return nil, err
		}
	}
	list := make([]client.Notice, 0, len(found))
	for i := range found {
		list = append(list, noticeOf(&found[i]))
	}
	return &reply{result: list}, nil
}

// withTimeout is what r asks for, with what is left of its timeout.
func withTimeout(r *http.Request, left time.Duration) string {
	uri := *r.URL
	query := uri.Query()
	query.Set("timeout", max(left, time.Millisecond).String())
	uri.RawQuery = query.Encode()
	return uri.RequestURI()
}

// notice answers with one.
func (s *server) notice(r *http.Request) (*reply, error) {
	id := r.PathValue("id")
	n, found := s.cfg.Manager.Notices().Get(id, s.sees(r, func(user *uint32) bool {
		return s.admin(r) || user == nil || int(*user) == userOf(r)
	}))
	if !found {
		return nil, &requestError{
			status: http.StatusNotFound, kind: string(refresh.KindNotFound), message: fmt.Sprintf("cannot find notice with id %q", id),
		}
	}
	return &reply{result: noticeOf(&n)}, nil
}

// addNotice notes for the user who asks that an app of a snap was not started, as snapd's
// snap run does.
func (s *server) addNotice(r *http.Request) (*reply, error) {
	var body struct {
		Action string      `json:"action"`
		Type   notice.Type `json:"type"`
		Key    string      `json:"key"`
	}
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Action != "add" {
		return nil, bad(fmt.Sprintf("action should be add; it is %q", body.Action))
	}
	if body.Type != notice.SnapRunInhibit {
		return nil, bad(fmt.Sprintf("only notices of type %s can be added, and not of %q", notice.SnapRunInhibit, body.Type))
	}
	snap, err := tenure.ParseInstance(body.Key)
	if err != nil {
		return nil, err
	}
	if err := s.known(r.Context(), tenure.UnitID{Snap: snap}); err != nil {
		return nil, err
	}
	user := userOf(r)
	if user < 0 {
		return nil, denied()
	}
	uid := uint32(user) //nolint:gosec // It was one.
	id := s.cfg.Manager.Notices().Record(notice.Occasion{Type: body.Type, Key: body.Key, User: &uid})
	return &reply{result: map[string]string{"id": id}}, nil
}

func (s *server) noticeFilter(r *http.Request) (f notice.Filter, timeout time.Duration, err error) {
	query := r.URL.Query()
	users, err := s.usersOf(r)
	if err != nil {
		return f, 0, err
	}
	f.See, f.Keys = s.sees(r, users), commas(query["keys"])
	for _, name := range commas(query["types"]) {
		f.Types = append(f.Types, notice.Type(name))
	}
	if text := query.Get("after"); text != "" {
		if f.After, err = time.Parse(time.RFC3339, text); err != nil {
			return f, 0, bad(fmt.Sprintf("after should be a time in RFC 3339 format; it is %q", text))
		}
	}
	if text := query.Get("timeout"); text != "" {
		if timeout, err = time.ParseDuration(text); err != nil {
			return f, 0, bad(fmt.Sprintf("timeout should be a duration like 10s; it is %q", text))
		}
	}
	return f, timeout, nil
}

// usersOf says whose notices, beside those for everybody, are asked for: administrators may
// ask for others' than their own.
func (s *server) usersOf(r *http.Request) (func(*uint32) bool, error) {
	query := r.URL.Query()
	id, users := query.Get("user-id"), query.Get("users")
	if (id != "" || users != "") && !s.admin(r) {
		return nil, &requestError{status: http.StatusForbidden, message: "only administrators see the notices of other users"}
	}
	switch {
	case id != "" && users != "":
		return nil, bad("user-id and users cannot be given together")
	case users == "all":
		return func(*uint32) bool { return true }, nil
	case users != "":
		return nil, bad(fmt.Sprintf("users should be all; it is %q", users))
	}
	wanted := userOf(r)
	if id != "" {
		uid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return nil, bad(fmt.Sprintf("user-id should be a number; it is %q", id))
		}
		wanted = int(uid)
	}
	return func(user *uint32) bool { return user == nil || int(*user) == wanted }, nil
}

// sees says what this peer may see of the notices of some users: warnings are for
// administrators.
func (s *server) sees(r *http.Request, users func(*uint32) bool) func(*notice.Notice) bool {
	admin := s.admin(r)
	return func(n *notice.Notice) bool { return (admin || n.Type != notice.Warning) && users(n.User) }
}

// commas are the values of a parameter that may be given several times, each with commas.
func commas(values []string) (all []string) {
	for _, value := range values {
		all = append(all, strings.Split(value, ",")...)
	}
	return slices.DeleteFunc(all, func(s string) bool { return s == "" })
}

func noticeOf(n *notice.Notice) client.Notice {
	return client.Notice{
		ID: n.ID, UserID: n.User, Type: string(n.Type), Key: n.Key, FirstOccurred: n.First, LastOccurred: n.Last,
		LastRepeated: n.Repeated, Occurrences: n.Occurrences, LastData: n.Data, ExpireAfter: notice.ExpireAfter.String(),
	}
}
