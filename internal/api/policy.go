package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"

	"tenure"
	"tenure/client"
	"tenure/internal/rules"
)

// policy says how it stands with the administrator's rules.
func (s *server) policy(*http.Request) (*reply, error) {
	status := s.cfg.Manager.RulesStatus()
	return &reply{result: client.Policy{
		Path: status.Path, Present: status.Present, Rules: slices.Concat([]string{}, status.Rules),
		Since: status.Since, Broken: status.Broken,
	}}, nil
}

// checkPolicy says what is wrong with a file of rules, which is not used.
func (s *server) checkPolicy(r *http.Request) (*reply, error) {
	var body client.PolicyFile
	if err := readJSON(r, &body); err != nil {
		return nil, err
	}
	if body.Name == "" {
		return nil, bad("the file has no name")
	}
	result := client.PolicyCheck{Rules: []string{}, Problems: []client.PolicyProblem{}}
	set, err := rules.Parse(body.Name, []byte(body.Content))
	invalid, mistaken := errors.AsType[*rules.InvalidError](err)
	switch {
	case mistaken:
		for _, p := range invalid.Problems {
			result.Problems = append(result.Problems, client.PolicyProblem{
				File: p.File, Line: p.Line, Column: p.Column, Rule: p.Rule, Key: p.Key,
				Found: p.Found, Accepted: p.Accepted, Text: p.Error(),
			})
		}
	case err != nil:
		return nil, err
	default:
		result.Rules = set.Names()
	}
	return &reply{result: result}, nil
}

// explainPolicy says what every rule says about a snap.
func (s *server) explainPolicy(r *http.Request) (*reply, error) {
	snap, err := tenure.ParseInstance(r.FormValue("snap"))
	if err != nil {
		return nil, err
	}
	reason := tenure.ReasonRefresh
	if text := r.FormValue("reason"); text != "" {
		if err := reason.UnmarshalText([]byte(text)); err != nil {
			return nil, bad(fmt.Sprintf("there is no reason %q; the reasons are %v", text, tenure.Reasons()))
		}
	}
	found, err := s.cfg.Manager.ExplainRules(r.Context(), snap, reason)
	if err != nil {
		return nil, err
	}
	explained := []client.PolicyExplanation{}
	for _, e := range found {
		said := []client.PolicyRule{}
		for _, r := range e.Rules {
			said = append(said, client.PolicyRule{
				Rule: r.Rule, Matched: r.Matched, Gives: r.Gives, Taken: r.Taken, Elsewhere: r.Elsewhere, Why: r.Why,
			})
		}
		explained = append(explained, client.PolicyExplanation{Unit: e.Unit, Rules: said})
	}
	return &reply{result: explained}, nil
}
