// Package virtd speaks to the manager of the example package virt, and has the
// words of its protocol: one JSON object a line, one answer for each request.
//
// A Client keeps no connection; its methods may be called at any time, also
// while the manager is being restarted, when they fail.
package virtd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"tenure/examples/clients/unixdial"
)

// Names of files in $SNAP_COMMON and, for the last five, in the directory of
// a machine.
const (
	Socket    = "virtd.sock"
	Accel     = "accel" // QEMU's accelerators, in words, for machines that are started
	Machines  = "machines"
	QMPSocket = "qmp.sock" // for anyone, one client at a time
	SerialLog = "serial.log"
	DiskImage = "disk.img"
	PIDFile   = "pid"
	Suspended = "suspended" // its state, if it was suspended and has not been started since
)

// Commands.
const (
	Start    = "start"    // boots the machine of the name, made if it is new; answers it
	List     = "list"     // answers all machines
	Shutdown = "shutdown" // ends the machine of the name; answers when it has ended
)

// Request is one line from a client.
type Request struct {
	Command string `json:"command"`
	Name    string `json:"name,omitempty"`
}

// Response is the line that answers it: an error or machines.
type Response struct {
	Error    string    `json:"error,omitempty"`
	Machines []Machine `json:"machines,omitempty"`
}

// Machine is what the manager knows about a machine.
type Machine struct {
	Name string `json:"name"`
	UUID string `json:"uuid"`
	// Running is whether its process answers; then PID is its process.
	Running bool `json:"running"`
	PID     int  `json:"pid,omitempty"`
	// Revision is the revision that it was last started from.
	Revision string `json:"revision"`
	// Reattached is whether this manager found it running at its own start.
	Reattached bool `json:"reattached,omitempty"`
}

// Client asks the manager whose $SNAP_COMMON is the directory Common, as seen
// from here.
type Client struct {
	Common string
}

// File is the path of a file of the machine name.
func (c Client) File(name, file string) string {
	return filepath.Join(c.Common, Machines, name, file)
}

// Start boots a machine.
func (c Client) Start(ctx context.Context, name string) (Machine, error) {
	machines, err := c.ask(ctx, Request{Command: Start, Name: name})
	if err == nil && len(machines) != 1 {
		err = fmt.Errorf("start %s: virtd answered %d machines, want 1", name, len(machines))
	}
	if err != nil {
		return Machine{}, err
	}
	return machines[0], nil
}

// List is all machines by name, also those that do not run.
func (c Client) List(ctx context.Context) ([]Machine, error) {
	return c.ask(ctx, Request{Command: List})
}

// Shutdown ends a machine and returns when its process has ended.
func (c Client) Shutdown(ctx context.Context, name string) error {
	_, err := c.ask(ctx, Request{Command: Shutdown, Name: name})
	return err
}

func (c Client) ask(ctx context.Context, request Request) ([]Machine, error) {
	conn, err := unixdial.Dial(ctx, filepath.Join(c.Common, Socket))
	if err != nil {
		return nil, fmt.Errorf("ask virtd: %w", err)
	}
	defer conn.Close()                                                           //nolint:errcheck // The answer is in, or the error.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed connection needs no deadline.
	defer stop()
	if err := json.NewEncoder(conn).Encode(request); err != nil {
		return nil, fmt.Errorf("ask virtd: %w", err)
	}
	line, err := bufio.NewReader(conn).ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("read virtd's answer: %w", err)
	}
	var response Response
	if err := json.Unmarshal(line, &response); err != nil {
		return nil, fmt.Errorf("read virtd's answer: %w", err)
	}
	if response.Error != "" {
		return nil, errors.New(response.Error)
	}
	return response.Machines, nil
}
