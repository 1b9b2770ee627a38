package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"tenure/examples/clients/virtd"
)

// accept serves each client in a goroutine of its own.
func (m *Manager) accept(ctx context.Context, listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			m.config.Log.Error("accept", slog.Any("error", err))
			continue
		}
		m.serving.Go(func() { m.serve(ctx, conn) })
	}
}

// serve answers the requests of one client, one line each.
func (m *Manager) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()                                                           //nolint:errcheck // The client has its answers or has gone.
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) }) //nolint:errcheck // A closed connection needs no deadline.
	defer stop()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		var response virtd.Response
		machines, err := m.handle(ctx, lines.Bytes())
		if err != nil {
			response.Error = err.Error()
		}
		response.Machines = machines
		if err := json.NewEncoder(conn).Encode(response); err != nil {
			return
		}
	}
}

func (m *Manager) handle(ctx context.Context, line []byte) ([]virtd.Machine, error) {
	var request virtd.Request
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, fmt.Errorf("request %q: %w", line, err)
	}
	switch request.Command {
	case virtd.List:
		return call(ctx, m, func(ctx context.Context) ([]virtd.Machine, error) { return m.list(ctx), nil })
	case virtd.Start:
		return call(ctx, m, func(ctx context.Context) ([]virtd.Machine, error) {
			started, err := m.start(ctx, request.Name)
			if err != nil {
				return nil, err
			}
			return []virtd.Machine{started}, nil
		})
	case virtd.Shutdown:
		return nil, m.shutdown(ctx, request.Name)
	default:
		return nil, fmt.Errorf("command %q: want %s, %s or %s", request.Command, virtd.Start, virtd.List, virtd.Shutdown)
	}
}

// shutdown ends the machine of the name and waits until it has ended.
func (m *Manager) shutdown(ctx context.Context, name string) error {
	v, err := call(ctx, m, func(ctx context.Context) (machine, error) {
		v := m.machines[name]
		if v == nil || !m.host.running(ctx, v) {
			return machine{}, fmt.Errorf("machine %s does not run", name)
		}
		return *v, nil
	})
	if err != nil {
		return err
	}
	if err := m.host.end(ctx, &v); err != nil {
		return fmt.Errorf("shut down machine %s: %w", name, err)
	}
	return nil
}

// call has Run call f and returns what it returned.
func call[T any](ctx context.Context, m *Manager, f func(context.Context) (T, error)) (T, error) {
	var result T
	var err error
	done := make(chan struct{})
	run := func(ctx context.Context) {
		defer close(done)
		result, err = f(ctx)
	}
	select {
	case m.calls <- run:
		<-done
		return result, err
	case <-ctx.Done():
		return result, context.Cause(ctx)
	}
}
