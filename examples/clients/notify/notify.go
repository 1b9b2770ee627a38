// Package notify tells the supervisor of a service about it: sd_notify(3)
// without C.
//
// One call is one datagram; calls are independent of each other.
package notify

import (
	"context"
	"fmt"
	"net"
)

// Send sends a message such as "READY=1" to the socket named by the
// environment variable NOTIFY_SOCKET, whose value is given. Without a value
// nobody wants to know, and nothing is sent.
func Send(ctx context.Context, socket, message string) error {
	if socket == "" {
		return nil
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unixgram", socket)
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	_, err = conn.Write([]byte(message))
	if closeErr := conn.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("notify the supervisor: %w", err)
	}
	return nil
}
