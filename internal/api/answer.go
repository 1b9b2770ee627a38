package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"

	"tenure"
	"tenure/client"
	"tenure/internal/change"
	"tenure/internal/refresh"
	"tenure/internal/supervise"
)

// handler answers one request.
type handler func(*http.Request) (*reply, error)

// reply is an answer: of a result now, or of a change that brings it.
type reply struct {
	result any
	change change.ID
	// joint is the id of several changes that are one; it is used in place of change.
	joint string
}

// requestError is an error that belongs to the request itself.
type requestError struct {
	status  int
	kind    string
	message string
}

func (e *requestError) Error() string { return e.message }

func bad(message string) error {
	return &requestError{status: http.StatusBadRequest, message: message}
}

func (s *server) answer(handle handler, may access) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := may(r)
		var answer *reply
		if err == nil {
			answer, err = handle(r)
		}
		if err != nil {
			if !s.again(w, r, err) {
				s.fail(w, err)
			}
			return
		}
		envelope := client.Response{Type: "sync", StatusCode: http.StatusOK}
		if s.admin(r) && forSnapd(r) {
			envelope.WarningCount, envelope.WarningTimestamp = s.cfg.Manager.News(r.Context())
		}
		if answer.change != 0 {
			answer.joint = cmp.Or(answer.joint, answer.change.String())
		}
		if answer.joint != "" {
			envelope.Type, envelope.StatusCode, envelope.Change = "async", http.StatusAccepted, answer.joint
		}
		s.write(w, envelope, answer.result)
	})
}

// inTurn lets those who are not administrators have something done one after another.
func (s *server) inTurn(handle handler) handler {
	return func(r *http.Request) (*reply, error) {
		if !s.admin(r) {
			done, err := s.turn.Take(r.Context())
			if err != nil {
				return nil, err
			}
			defer done()
		}
		return handle(r)
	}
}

func (s *server) write(w http.ResponseWriter, envelope client.Response, result any) {
	answer := struct {
		client.Response

		Result any `json:"result"` // It hides the other one, which would be read and written once more.
	}{envelope, result}
	answer.Status = http.StatusText(answer.StatusCode)
	text, err := json.Marshal(&answer)
	if err != nil {
		s.cfg.Logger.Error("cannot write an answer", slog.Any("error", err))
		answer.StatusCode, answer.Result = http.StatusInternalServerError, nil
		answer.Status = http.StatusText(answer.StatusCode)
		text, _ = json.Marshal(&answer) // Words alone.
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(answer.StatusCode)
	if _, err := w.Write(append(text, '\n')); err != nil {
		s.cfg.Logger.Debug("client has left", slog.Any("error", err))
	}
}

func (s *server) fail(w http.ResponseWriter, err error) {
	status, kind := classify(err)
	s.write(w, client.Response{Type: "error", StatusCode: status}, client.Error{Kind: kind, Message: refresh.Advised(err).Error()})
}

// classify is the one table from kinds of errors to HTTP statuses and the kinds
// that clients know.
func classify(err error) (status int, kind string) {
	if own, ok := errors.AsType[*requestError](err); ok {
		return own.status, own.kind
	}
	switch kind := refresh.KindOf(err); kind {
	case refresh.KindNotInstalled, refresh.KindNotFound, refresh.KindApp:
		return http.StatusNotFound, string(kind)
	case refresh.KindConflict:
		return http.StatusConflict, string(kind)
	case refresh.KindSpace:
		return http.StatusInsufficientStorage, string(kind)
	case refresh.KindBad, refresh.KindInstalled, refresh.KindNotRevertible, refresh.KindNeedsFlag, refresh.KindBase,
		refresh.KindPackage, refresh.KindRefused, refresh.KindNoSource, refresh.KindNoUpdate, refresh.KindOption:
		return http.StatusBadRequest, string(kind)
	case refresh.KindShort:
		return http.StatusInternalServerError, string(kind)
	}
	_, finished := errors.AsType[*change.FinishedError](err)
	_, again := errors.AsType[*againError](err)
	switch {
	case errors.Is(err, change.ErrNotFound), errors.Is(err, supervise.ErrUnknown):
		return http.StatusNotFound, string(refresh.KindNotFound)
	case errors.Is(err, tenure.ErrName), finished:
		return http.StatusBadRequest, ""
	case errors.Is(err, change.ErrShutdown), errors.Is(err, context.Canceled), again:
		// Either the daemon is about to end, or the client has left.
		return http.StatusServiceUnavailable, "daemon-restart"
	default:
		return http.StatusInternalServerError, ""
	}
}
