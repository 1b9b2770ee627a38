package api

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What is asked once more is what was asked: the head that another program reads, before the same body.
func TestHeadOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ head, body string }{
		{"GET /v2/changes/1/watch?after=3&x=%20a HTTP/1.1\r\nHost: localhost\r\nX-Allow-Interaction: true\r\nA: 1\r\nA: 2\r\n\r\n", ""},
		{"GET /v2/notices HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", ""},
		{"GET http://other/v2/notices?timeout=1s HTTP/1.1\r\nHost: localhost\r\n\r\n", ""},
		{"POST /v2/snaps HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n", "{}"},
		{"POST /v2/snaps HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", "2\r\n{}\r\n0\r\n\r\n"},
	} {
		first := questionOf(t, c.head+c.body)
		second := questionOf(t, string(headOf(first.request, ""))+c.body)
		if diff := cmp.Diff(first.said, second.said); diff != "" {
			t.Errorf("%q (-first +second):\n%s", c.head, diff)
		}
		third := questionOf(t, string(headOf(second.request, "/v2/other?after=0"))+c.body)
		if third.said.URI != "/v2/other?after=0" {
			t.Errorf("%q: another one asks for %s", c.head, third.said.URI)
		}
	}
}

// said is what a request says.
type said struct {
	Method, URI, Proto, Host string
	Header                   http.Header
	Length                   int64
	Close                    bool
	Coding                   []string
	Body                     string
}

type question struct {
	request *http.Request
	said    said
}

func questionOf(t *testing.T, text string) question {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return question{r, said{r.Method, r.RequestURI, r.Proto, r.Host, r.Header, r.ContentLength, r.Close, r.TransferEncoding, string(body)}}
}
