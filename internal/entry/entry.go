// Package entry is how a process becomes an app of a snap: it asks the daemon at a
// socket of its own, is moved into its unit, and enters it.
//
// The daemon decides everything, by what the kernel says of who asks. The helper, which
// has the rights to enter a mount namespace, uses them for nothing else: it takes
// what the daemon answers and nobody else, does everything with files as its user, and has
// no right left when the app begins.
//
// A conversation is for one goroutine on each side.
package entry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// HelperPath is where the helper is below a root, and SocketPath where it asks.
const (
	HelperPath = "var/lib/tenure/helper/tenure-run"
	SocketPath = "run/tenure/entry.sock"
)

// Kind tells what a message is about.
type Kind string

// The kinds of messages.
const (
	// Ask is the helper's first: mode, name, hook, arguments.
	Ask Kind = "ask"
	// Home asks the helper to make directories of its user: the home directory, the
	// name of the snap, the revision.
	Home Kind = "home"
	// Made is the answer: the directory of the snap, open, or why there is none.
	Made Kind = "made"
	// Say is a line for the person who waits.
	Say Kind = "say"
	// Fail is that the app cannot be run: a sentence.
	Fail Kind = "fail"
	// Become is what the helper is to become, with the mount namespace, if any.
	Become Kind = "become"
)

// Message is one message, with at most one open file. No word has a NUL in it, as no
// argument and no variable of the environment has.
type Message struct {
	Kind  Kind
	Words []string
	File  *os.File
}

// Mode is what is to be run.
type Mode string

// The modes.
const (
	// App is the app itself.
	App Mode = "app"
	// Shell is a shell in its place.
	Shell Mode = "shell"
	// Hook is a hook of the snap.
	Hook Mode = "hook"
	// Complete is the completer of the app.
	Complete Mode = "complete"
)

// Question is what a helper asks for.
type Question struct {
	Mode Mode
	// Name is SNAP.APP, or SNAP alone.
	Name string
	// Hook is the hook, in that mode.
	Hook string
	Args []string
}

// Message is q in the words of the protocol.
func (q Question) Message() Message {
	return Message{Kind: Ask, Words: append([]string{string(q.Mode), q.Name, q.Hook}, q.Args...)}
}

// ErrProtocol is the kind of errors about what the other side has sent.
var ErrProtocol = errors.New("unexpected message")

// ParseQuestion reads what Question.Message wrote.
func ParseQuestion(m Message) (Question, error) {
	if m.Kind != Ask || len(m.Words) < 3 || !slices.Contains([]Mode{App, Shell, Hook, Complete}, Mode(m.Words[0])) {
		return Question{}, fmt.Errorf("%w: %q", ErrProtocol, m.Kind)
	}
	return Question{Mode: Mode(m.Words[0]), Name: m.Words[1], Hook: m.Words[2], Args: m.Words[3:]}, nil
}

// Program is what the helper is to become.
type Program struct {
	// KeepCapabilities, AllCapabilities and NoNewPrivs are those of sandbox.Profile.
	KeepCapabilities []string
	AllCapabilities  bool
	NoNewPrivs       bool
	Argv             []string
	Env              []string
}

const yes = "yes"

// Message is p in the words of the protocol.
func (p Program) Message(namespace *os.File) Message {
	truth := map[bool]string{true: yes}
	words := []string{truth[p.AllCapabilities], truth[p.NoNewPrivs], strings.Join(p.KeepCapabilities, ","), fmt.Sprint(len(p.Argv))}
	return Message{Kind: Become, Words: slices.Concat(words, p.Argv, p.Env), File: namespace}
}

// ParseProgram reads what Program.Message wrote.
func ParseProgram(m Message) (Program, error) {
	var n int
	if m.Kind != Become || len(m.Words) < 4 {
		return Program{}, fmt.Errorf("%w: %q", ErrProtocol, m.Kind)
	}
	if _, err := fmt.Sscan(m.Words[3], &n); err != nil || n < 1 || n > len(m.Words)-4 {
		return Program{}, fmt.Errorf("%w: %q arguments", ErrProtocol, m.Words[3])
	}
	p := Program{AllCapabilities: m.Words[0] == yes, NoNewPrivs: m.Words[1] == yes, Argv: m.Words[4 : 4+n], Env: m.Words[4+n:]}
	if m.Words[2] != "" {
		p.KeepCapabilities = strings.Split(m.Words[2], ",")
	}
	return p, nil
}

// Channel is a unix stream that can carry descriptors: one message of it at a time.
type Channel interface {
	io.Reader
	// ReadWith reads bytes, and what came with them besides.
	ReadWith(b, oob []byte) (n, oobn int, err error)
	// WriteWith writes all bytes, with something besides.
	WriteWith(b, oob []byte) error
}

// maxMessage bounds a message, in bytes: arguments and environment are at most 6 MiB
// (execve(2)).
const maxMessage = 8 << 20

// Bytes are those that Send sends.
func (m Message) Bytes() ([]byte, error) {
	text := strings.Join(append([]string{string(m.Kind)}, m.Words...), "\x00")
	if len(text) > maxMessage {
		return nil, fmt.Errorf("send %q: %w: %d bytes are too many", m.Kind, ErrProtocol, len(text))
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(text)), uint32(len(text))) //nolint:gosec // It is bounded.
	return append(frame, text...), nil
}

// Send sends a message.
func Send(to Channel, m Message) error {
	frame, err := m.Bytes()
	if err != nil {
		return err
	}
	var oob []byte
	if m.File != nil {
		oob = unix.UnixRights(int(m.File.Fd())) //nolint:gosec // An open descriptor.
	}
	if err := to.WriteWith(frame, oob); err != nil {
		return fmt.Errorf("send %q: %w", m.Kind, err)
	}
	return nil
}

// Receive receives a message, whose file is the caller's to close.
func Receive(from Channel) (Message, error) {
	var head [4]byte
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, err := from.ReadWith(head[:], oob)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return Message{}, fmt.Errorf("receive: %w", err)
	}
	file, err := fileOf(oob[:oobn])
	if err == nil {
		_, err = io.ReadFull(from, head[n:])
	}
	size := binary.BigEndian.Uint32(head[:])
	if err == nil && size > maxMessage {
		err = fmt.Errorf("%w: %d bytes are too many", ErrProtocol, size)
	}
	var text []byte
	if err == nil {
		text = make([]byte, size)
		_, err = io.ReadFull(from, text)
	}
	if err != nil {
		_ = file.Close() // Also of none.
		return Message{}, fmt.Errorf("receive: %w", err)
	}
	words := strings.Split(string(text), "\x00")
	return Message{Kind: Kind(words[0]), Words: words[1:], File: file}, nil
}

// fileOf is the file in what came besides a message; nil if there is none.
func fileOf(oob []byte) (*os.File, error) {
	if len(oob) == 0 {
		return nil, nil //nolint:nilnil // There is none.
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // It is something else, that nobody has asked for.
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "received")) //nolint:gosec // An open descriptor.
		}
	}
	if len(files) == 1 {
		return files[0], nil
	}
	for _, file := range files {
		_ = file.Close()
	}
	return nil, fmt.Errorf("%w: %d files", ErrProtocol, len(files))
}
