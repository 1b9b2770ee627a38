// Package unixdial connects to unix sockets whose path may be longer than the
// 107 bytes that an address has room for, as paths below the private root of
// a test often are.
package unixdial

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// maxPath is the longest path that fits a sockaddr_un with its final zero byte.
const maxPath = 107

// Dial connects to the stream socket at path.
func Dial(ctx context.Context, path string) (net.Conn, error) {
	address := path
	if len(path) > maxPath {
		dir, err := os.Open(filepath.Dir(path))
		if err != nil {
			return nil, fmt.Errorf("connect to %s: %w", path, err)
		}
		defer dir.Close() //nolint:errcheck // Nothing was written to the directory.
		address = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn, nil
}
