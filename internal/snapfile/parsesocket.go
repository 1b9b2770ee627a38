package snapfile

import (
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

const (
	maxSockets = 64
	// maxSocketPath leaves room for what the variable stands for in the 108
	// bytes of sun_path (unix(7)).
	maxSocketPath = 100
)

func (o *object) sockets(app *App, snap string) []Socket {
	v, found := o.take("sockets")
	if !found {
		return nil
	}
	var sockets []Socket
	for _, f := range v.object(maxSockets).fields {
		if !isName(f.name) {
			f.fail("the name "+quote(f.name), acceptedName)
			continue
		}
		inner := f.object(0)
		socket := Socket{Name: f.name}
		inner.listenStream(&socket, app, snap)
		if mode, set := inner.take("socket-mode"); set {
			socket.Mode = mode.socketMode()
		}
		inner.finish()
		sockets = append(sockets, socket)
	}
	slices.SortFunc(sockets, func(a, b Socket) int { return strings.Compare(a.Name, b.Name) })
	return sockets
}

// listenStream reads a port, an address with a port, a path that starts with a
// variable of the scope, or an abstract name that belongs to the snap.
func (o *object) listenStream(socket *Socket, app *App, snap string) {
	variables := []string{"$SNAP_DATA", "$SNAP_COMMON", "$XDG_RUNTIME_DIR"}
	if app.DaemonScope == ScopeUser {
		variables = []string{"$SNAP_USER_DATA", "$SNAP_USER_COMMON", "$XDG_RUNTIME_DIR"}
	}
	accepted := "a port, ADDRESS:PORT, a path in " + strings.Join(variables, ", ") + ", or an abstract name that starts with @snap." + clip(snap) + "."
	v, found := o.take("listen-stream")
	if !found || v.isEmpty() {
		o.missing("listen-stream", accepted)
		return
	}
	s, ok := v.scalar(accepted)
	if !ok {
		return
	}
	switch s[0] {
	case '@':
		ok = len(s) <= maxSocketPath && abstractForm.matches(s) && strings.HasPrefix(s, "@snap."+snap+".")
		socket.Network, socket.Address = "unix", s
	case '$', '/':
		match := socketPathForm().FindStringSubmatch(s)
		ok = len(s) <= maxSocketPath && match != nil && path.Clean(s) == s && slices.Contains(variables, match[1])
		socket.Network, socket.Address = "unix", s
	default:
		socket.Network = "tcp"
		socket.Address, ok = tcpAddress(s)
	}
	if !ok {
		v.wants(accepted)
	}
}

// tcpAddress completes a port alone to ":PORT", which is every address.
func tcpAddress(s string) (address string, ok bool) {
	at := strings.LastIndex(s, ":")
	host, port := "", s
	if at >= 0 {
		host, port = s[:at], s[at+1:]
		if _, err := netip.ParseAddrPort(s); err != nil {
			return "", false
		}
	}
	n, ok := number(port)
	return host + ":" + strconv.FormatUint(uint64(n), 10), ok && n >= 1 && n <= 65535
}

// socketMode is a YAML integer: 0660 is octal as in YAML 1.1, 432 is the same
// in decimal, as tools write it. Quoted, it is octal digits.
func (v value) socketMode() uint32 {
	if !v.isScalar() || v.node.ShortTag() == "!!str" {
		return v.octal(0o777)
	}
	const accepted = "a mode of at most 0777, with its leading 0"
	n, err := strconv.ParseUint(v.node.Value, 0, 32)
	if err != nil || n > 0o777 {
		v.wants(accepted)
		return 0
	}
	return uint32(n)
}
