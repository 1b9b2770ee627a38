package cli

import (
	"bytes"
	"io"
	"strconv"
	"unicode/utf8"
)

// tame writes to a terminal what packages and their services have said, and lets none of
// it command the terminal: what cannot be printed becomes a question mark. Colours,
// which do no harm, stay.
type tame struct{ to io.Writer }

func (t tame) Write(p []byte) (int, error) {
	var out bytes.Buffer
	out.Grow(len(p))
	for rest := p; len(rest) > 0; {
		n := colour(rest)
		if n == 0 {
			r, size := utf8.DecodeRune(rest)
			n = size
			if r != '\n' && r != '\t' && (r == utf8.RuneError || !strconv.IsPrint(r)) {
				out.WriteByte('?')
				rest = rest[n:]
				continue
			}
		}
		out.Write(rest[:n])
		rest = rest[n:]
	}
	if _, err := t.to.Write(out.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}

// colour is the length of the sequence that p begins with and that chooses how text
// looks (ECMA-48, SGR); 0 if there is none.
func colour(p []byte) int {
	if len(p) < 2 || p[0] != 0x1b || p[1] != '[' {
		return 0
	}
	for i, b := range p[2:] {
		switch {
		case b == 'm':
			return i + 3 //nolint:mnd // ESC, [ and m.
		case b != ';' && (b < '0' || b > '9'):
			return 0
		}
	}
	return 0
}
