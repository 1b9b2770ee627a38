package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
)

// ignored are the fields of snapd's requests that make no difference here, so that
// snapd's clients may send them.
func ignored() []string {
	return []string{
		"cohort-key", "ignore-validation", "leave-cohort", "prefer", "scope",
		"system-restart-immediate", "transaction", "unaliased",
	}
}

// readJSON reads a body that is one JSON object. A field that nothing would become
// of is an error, but for those to be ignored.
func readJSON(r *http.Request, into any, ignored ...string) error {
	if declared := r.Header.Get("Content-Type"); declared != "" {
		if media, _, err := mime.ParseMediaType(declared); err != nil || media != "application/json" {
			return &requestError{
				status:  http.StatusUnsupportedMediaType,
				message: fmt.Sprintf("unknown content type %q; send application/json", declared),
			}
		}
	}
	raw, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return bad("cannot read the body: " + err.Error())
	}
	if len(raw) > maxBody {
		return &requestError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("the body is longer than %d bytes", maxBody)}
	}
	if err := decodeObject(raw, into, ignored); err != nil {
		return bad("cannot decode the body: " + err.Error())
	}
	return nil
}

func decodeObject(raw []byte, into any, ignored []string) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return decodeError(err)
	}
	if fields == nil {
		return errors.New("it should be a JSON object")
	}
	for _, name := range ignored {
		delete(fields, name)
	}
	rest, err := json.Marshal(fields)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(rest))
	decoder.DisallowUnknownFields()
	return decodeError(decoder.Decode(into))
}

// decodeError says it without the names of Go's types.
func decodeError(err error) error {
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		if wrong.Field == "" {
			return fmt.Errorf("it should be a JSON object, and is a %s", wrong.Value) //nolint:err113 // The sentence is the error.
		}
		return fmt.Errorf("%s cannot be a %s", wrong.Field, wrong.Value) //nolint:err113 // The sentence is the error.
	}
	if err != nil {
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}
