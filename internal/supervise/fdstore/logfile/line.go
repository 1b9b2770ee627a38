package logfile

import (
	"bytes"
	"strconv"
	"time"

	"tenure"
	"tenure/internal/supervise"
)

const (
	// MaxText is the longest text of a line in bytes; longer ones are cut. It is the
	// limit that the systemd journal has.
	MaxText = 48 << 10
	// timeFormat is RFC 3339 in UTC with all nine digits, so that lines sort as text.
	timeFormat = "2006-01-02T15:04:05.000000000Z"
	maxLine    = len(timeFormat) + 1 + 10 + 1 + 1 + MaxText + 1
)

// AppendLine appends the line that records text, which pid wrote at time t. With cut, no
// newline followed text. The text must not contain newlines nor be longer than MaxText.
func AppendLine(dst []byte, t time.Time, pid int, text []byte, cut bool) []byte {
	dst = t.UTC().AppendFormat(dst, timeFormat)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, int64(pid), 10)
	if cut {
		dst = append(dst, '+')
	}
	dst = append(dst, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// parseLine reads a line without its newline. What does not have the form, such as the
// rest of one that a power cut left behind, becomes text of pid 0 and no time.
func parseLine(unit tenure.UnitID, line []byte) supervise.LogLine {
	stamp, rest, _ := bytes.Cut(line, []byte{' '})
	pid, text, found := bytes.Cut(rest, []byte{' '})
	t, timeErr := time.Parse(time.RFC3339Nano, string(stamp))
	n, pidErr := strconv.Atoi(string(bytes.TrimSuffix(pid, []byte{'+'})))
	if !found || timeErr != nil || pidErr != nil {
		return supervise.LogLine{Unit: unit, Text: string(line)}
	}
	return supervise.LogLine{Time: t, Unit: unit, PID: n, Text: string(text)}
}
