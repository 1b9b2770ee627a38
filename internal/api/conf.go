package api

import (
	"encoding/json"
	"net/http"

	"tenure/internal/refresh"
)

// conf answers with configuration options: with keys, each by its dotted name, else
// all as one document.
func (s *server) conf(r *http.Request) (*reply, error) {
	keys := splitList(r.FormValue("keys"))
	if values, ok := withSeeded(configured(r), keys); ok {
		return &reply{result: values}, nil
	}
	values, err := s.cfg.Manager.Conf(configured(r), keys)
	if err != nil {
		return nil, err
	}
	return &reply{result: values}, nil
}

// setConf begins a change of configuration options.
func (s *server) setConf(r *http.Request) (*reply, error) {
	var patch map[string]json.RawMessage
	if err := readJSON(r, &patch); err != nil {
		return nil, err
	}
	id, err := s.cfg.Manager.Configure(r.Context(), configured(r), patch)
	if err != nil {
		return nil, err
	}
	return &reply{change: id}, nil
}

// configured is the snap that a request is about. snapd's older name for the system
// is "core".
func configured(r *http.Request) string {
	name := r.PathValue("name")
	if name == "core" {
		return refresh.System
	}
	return name
}
