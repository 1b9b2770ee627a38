package fdstore

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"tenure"
)

// op tells what a frame is.
type op uint8

const (
	opHello op = 1 + iota
	opPut
	opLog
	opRemove
	opGet
	opList
	opSync
	opHandover
	opCommit
	opOK
	opError
	opEnd
	opItem
	opStream
	opListener
	opEnded
	opDropLogs
	opBundle
	opLast = opBundle
)

// String is the name that errors and logs show.
func (o op) String() string {
	names := [...]string{
		"", "hello", "put", "log", "remove", "get", "list", "sync", "handover", "commit",
		"ok", "error", "end", "item", "stream", "listener", "ended", "drop logs", "bundle",
	}
	if o < opHello || o > opLast {
		return fmt.Sprintf("op %d", uint8(o))
	}
	return names[o]
}

// A frame on the wire is
//
//	"TH"  version(1)  op(1)  length of JSON (4, big endian)  JSON  data
//
// and fills one packet.
const (
	frameMagic   = "TH"
	frameVersion = 1
	frameHeader  = 8
	maxMeta      = 64 << 10
	maxData      = 64 << 10
	maxFrame     = frameHeader + maxMeta + maxData
)

// errFrame is the kind of every error about a malformed frame.
var errFrame = errors.New("malformed frame")

// frame is one message of the protocol.
type frame struct {
	Op   op
	Meta meta
	// Data is the unfinished line of a stream in a hand-over.
	Data []byte
}

// meta are the words of a frame; which ones are set depends on its op.
type meta struct {
	Unit  tenure.UnitID `json:"unit,omitzero"`
	Kind  Kind          `json:"kind,omitempty"`
	Name  string        `json:"name,omitempty"`
	Names []string      `json:"names,omitempty"`
	// Stream identifies one log stream, across holders.
	Stream string `json:"stream,omitempty"`
	// PID wrote the unfinished line in Data.
	PID int `json:"pid,omitempty"`
	// Dropped are the lines of the unit that found no room on disk and were not yet
	// reported in its log.
	Dropped int    `json:"dropped,omitempty"`
	Store   string `json:"store,omitempty"`
	// Snap is whose logs are dropped; without one it is the Unit.
	Snap  tenure.Instance `json:"snap,omitempty"`
	Error string          `json:"error,omitempty"`
	// Bundles is that who asks understands them, and Bundle what comes in one packet.
	Bundles bool      `json:"bundles,omitempty"`
	Bundle  []bundled `json:"bundle,omitempty"`
}

// bundled is a frame without data in a bundle, which has a descriptor for each.
type bundled struct {
	Op   op   `json:"op"`
	Meta meta `json:"meta"`
}

// maxBundle is how many frames are in a bundle: so many of the longest names fit into one packet, and
// no packet may have more than 253 descriptors (SCM_MAX_FD).
const maxBundle = 32

// encode makes the packet of f.
func (f frame) encode() ([]byte, error) {
	words, err := json.Marshal(f.Meta)
	if err != nil {
		return nil, fmt.Errorf("encode %s frame: %w", f.Op, err)
	}
	if len(words) > maxMeta || len(f.Data) > maxData {
		return nil, fmt.Errorf("encode %s frame: %w: too long (%d bytes of words, %d of data)", f.Op, errFrame, len(words), len(f.Data))
	}
	packet := make([]byte, 0, frameHeader+len(words)+len(f.Data))
	packet = append(packet, frameMagic...)
	packet = append(packet, frameVersion, byte(f.Op))
	packet = binary.BigEndian.AppendUint32(packet, uint32(len(words))) //nolint:gosec // Bounded by maxMeta.
	packet = append(packet, words...)
	return append(packet, f.Data...), nil
}

// decode reads one packet. The result does not refer to it.
func decode(packet []byte) (frame, error) {
	if len(packet) < frameHeader || len(packet) > maxFrame || string(packet[:2]) != frameMagic {
		return frame{}, fmt.Errorf("%w: %d bytes without a header", errFrame, len(packet))
	}
	if packet[2] != frameVersion {
		return frame{}, fmt.Errorf("%w: version %d (want %d)", errFrame, packet[2], frameVersion)
	}
	f := frame{Op: op(packet[3])}
	length := binary.BigEndian.Uint32(packet[4:])
	rest := packet[frameHeader:]
	switch {
	case f.Op < opHello || f.Op > opLast:
		return frame{}, fmt.Errorf("%w: %s", errFrame, f.Op)
	case length > maxMeta || int(length) > len(rest):
		return frame{}, fmt.Errorf("%w: %s with %d bytes of words in a packet of %d", errFrame, f.Op, length, len(packet))
	case len(rest)-int(length) > maxData:
		return frame{}, fmt.Errorf("%w: %s with too much data", errFrame, f.Op)
	}
	if err := json.Unmarshal(rest[:length], &f.Meta); err != nil {
		return frame{}, fmt.Errorf("%w: %s: %w", errFrame, f.Op, err)
	}
	if data := rest[length:]; len(data) > 0 {
		f.Data = append([]byte(nil), data...)
	}
	return f, nil
}
