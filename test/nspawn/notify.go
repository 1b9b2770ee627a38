package nspawn

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"
)

// notices hear what systemd-nspawn says of itself and, once it has booted, for the
// machine (sd_notify(3)).
type notices struct {
	path string
	conn *net.UnixConn
	// booted gets process 1 of each boot, when that is complete.
	booted chan int
}

func listen(path string) (*notices, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return nil, fmt.Errorf("listen for notices: %w", err)
	}
	n := &notices{path: path, conn: conn, booted: make(chan int, 16)}
	go n.run()
	return n, nil
}

// run reads until the socket is closed. A leader comes with every boot, and after it
// READY=1, which systemd may repeat when it executes itself again.
func (n *notices) run() {
	const largest = 4096
	buf, leader := make([]byte, largest), 0
	for {
		size, err := n.conn.Read(buf)
		if err != nil {
			return
		}
		for line := range strings.Lines(string(buf[:size])) {
			line = strings.TrimSuffix(line, "\n")
			if value, ok := strings.CutPrefix(line, "X_NSPAWN_LEADER_PID="); ok {
				leader, _ = strconv.Atoi(value)
			}
			if line == "READY=1" && leader != 0 {
				n.booted <- leader
				leader = 0
			}
		}
	}
}

func (n *notices) close() error {
	err := n.conn.Close()
	if removeErr := os.Remove(n.path); !errors.Is(removeErr, fs.ErrNotExist) {
		err = errors.Join(err, removeErr)
	}
	return err
}
