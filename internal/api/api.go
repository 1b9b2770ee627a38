// Package api is the surface that clients talk to: HTTP and JSON on a unix
// socket, with the paths and shapes of snapd's REST API v2 and our additions.
//
// Who may do what is decided from the credentials that the kernel gives for
// the peer, never from what the request says: everybody may read lists, versions,
// the status of changes and which units run, with the command lines of their own processes;
// all else is for root and the members of the group "tenure" (DESIGN.md section 9, 17), and most of
// it for those whom polkit lets, where a machine has it. Nothing that a client sends is held in
// memory beyond a bound.
//
// Any number of requests are served at the same time.
package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"tenure/internal/accept"
	"tenure/internal/polkit"
	"tenure/internal/refresh"
	"tenure/internal/relay"
	"tenure/internal/supervise"
)

// Config is what a server is made of.
type Config struct {
	// Socket is the path to listen at.
	Socket string
	// Listener, if set, listens there already.
	Listener *net.UnixListener
	// SnapdSocket, if set, is another one, for programs that were made for snapd.
	SnapdSocket string
	// SnapdListener, if set, listens for those already.
	SnapdListener *net.UnixListener
	Manager       *refresh.Manager
	Logs          supervise.LogReader
	Upgrader      Upgrader
	Version       string
	// Group is the group whose members may do what root may, by default "tenure".
	Group string
	// Polkit, if set, is asked about everybody else.
	Polkit *polkit.Authority
	Logger *slog.Logger
	// Asked, if set, is called when a request was answered. It does not wait.
	Asked func()
	// Ready, if set, is called before the first request is answered, when nothing is left that could fail.
	Ready func() error
	// Kept, if set, are connections that the program before has left, and Box, if set, takes those that the next one is to
	// go on with.
	Kept []relay.Passed
	Box  *relay.Box
	// Quiesce, if set, is closed when others are to answer at the sockets: nobody is accepted any more,
	// who waits for what happens is sent away, and all else that was asked is answered.
	Quiesce <-chan struct{}
	// Grace is for how long who was accepted is answered then.
	Grace time.Duration
}

// The names of the sockets.
const (
	DoorAPI   = "tenured"
	DoorSnapd = "snapd"
	DoorEntry = "entry"
)

type server struct {
	cfg Config
	// drain ends the connections.
	drain *drain
	// admins is the id of Config.Group; -1 where the machine has none.
	admins int
	// turn is for what is work for the daemon, and may be asked for by anybody.
	turn refresh.Turn
	// litter is what of that is still to be taken away.
	litter litter
	// quiet is closed when nobody is to wait any more.
	quiet <-chan struct{}
}

const (
	// headPatience bounds how long a request may take to be read, but for its body, and idlePatience how long nothing may be
	// asked on a connection.
	headPatience = 10 * time.Second
	idlePatience = time.Minute
)

// Serve answers requests until ctx ends; then it ends those that wait and
// returns when the others are answered.
func Serve(ctx context.Context, cfg Config) error {
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	listeners, err := cfg.listen(ctx)
	if err != nil {
		return err
	}
	s := &server{cfg: cfg, admins: groupID(cmp.Or(cfg.Group, "tenure")), turn: refresh.NewTurn(), quiet: cfg.Quiesce}
	requests, cancel := context.WithCancel(ctx)
	defer cancel()
	httpServer := &http.Server{
		Handler:           cfg.asked(s.handler()),
		ReadHeaderTimeout: headPatience,
		IdleTimeout:       idlePatience,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext:       func(net.Listener) context.Context { return requests },
		ConnContext:       withPeer,
	}
	open := newDrain(httpServer, cfg.Box)
	s.drain = open
	if cfg.Ready != nil {
		if err := cfg.Ready(); err != nil {
			return errors.Join(err, closeAll(listeners))
		}
	}
	left := newInherited(cfg.Kept, listeners)
	defer left.close()
	ended := make(chan error, len(listeners)+1)
	go func() { ended <- httpServer.Serve(left) }()
	for _, listener := range listeners {
		go func() { ended <- httpServer.Serve(listener) }()
	}
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", cfg.Socket, err)
	case <-ctx.Done():
	case <-cfg.Quiesce:
	}
	for _, listener := range listeners {
		listener.quiet()
	}
	left.close()
	for range cap(ended) {
		<-ended //nolint:errcheck // It is errQuiet.
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), cfg.grace(ctx))
	defer done()
	open.end(last)
	if unanswered := open.left(); unanswered > 0 {
		cfg.Logger.Warn("not everybody was answered", slog.Int("connections", unanswered))
	}
	err = httpServer.Shutdown(last)
	if errors.Is(err, context.DeadlineExceeded) {
		return httpServer.Close()
	}
	return err
}

// asked is handler, and tells.
func (cfg *Config) asked(handler http.Handler) http.Handler {
	if cfg.Asked == nil {
		return handler
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer cfg.Asked()
		handler.ServeHTTP(w, r)
	})
}

// shutdownGrace bounds how long the end of the daemon waits for answers.
const shutdownGrace = 5 * time.Second

// grace is for how long those are answered who have asked: at the end of the daemon, or where others answer from
// then on.
func (cfg *Config) grace(ctx context.Context) time.Duration {
	if ctx.Err() != nil {
		return shutdownGrace
	}
	return cmp.Or(cfg.Grace, shutdownGrace)
}

// whileServing is ctx until nobody is to wait any more.
func (s *server) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	if s.quiet != nil {
		go func() {
			select {
			case <-s.quiet:
				cancel(&againError{})
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() { cancel(nil) }
}

func closeAll(listeners []*fair) error {
	var errs []error
	for _, listener := range listeners {
		errs = append(errs, listener.Close())
	}
	return errors.Join(errs...)
}

// listen makes the sockets that do not listen already, or none.
func (cfg *Config) listen(ctx context.Context) ([]*fair, error) {
	own := cfg.Listener
	if own == nil {
		var err error
		if own, err = Listen(ctx, cfg.Socket); err != nil {
			return nil, err
		}
	}
	listeners := []*fair{newFair(own, DoorAPI, cfg.Logger)}
	snapd := cfg.SnapdListener
	if snapd == nil && cfg.SnapdSocket != "" {
		var err error
		if snapd, err = Listen(ctx, cfg.SnapdSocket); err != nil {
			return nil, errors.Join(err, own.Close())
		}
	}
	if snapd != nil {
		listeners = append(listeners, newFair(snapd, DoorSnapd, cfg.Logger))
	}
	return listeners, nil
}

// Listen makes a socket, in place of one that nobody listens at any more.
func Listen(ctx context.Context, socket string) (*net.UnixListener, error) {
	if err := Deserted(ctx, socket); err != nil {
		return nil, fmt.Errorf("listen at %s: %w", socket, err)
	}
	return accept.Listen(socket)
}

func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	// For everybody, for administrators, and for these and those whom polkit lets.
	open := func(pattern string, handle handler) { mux.Handle(pattern, s.answer(handle, s.everybody)) }
	admin := func(pattern string, handle handler) { mux.Handle(pattern, s.answer(handle, s.administrators)) }
	manage := func(pattern string, handle handler) { mux.Handle(pattern, s.answer(handle, s.let(polkit.Manage))) }
	configure := func(pattern string, handle handler) { mux.Handle(pattern, s.answer(handle, s.let(polkit.Configure))) }
	s.handleOwn(open, admin, manage, configure)
	open("GET /v2/system-info", s.systemInfo)
	open("GET /v2/snaps", s.snaps)
	open("GET /v2/snaps/{name}", s.snap)
	open("GET /v2/apps", s.apps)
	open("GET /v2/find", s.inTurn(s.find))
	open("GET /v2/changes", s.inTurn(s.changes))
	open("GET /v2/changes/{id}", s.change)
	manage("POST /v2/changes/{id}", s.changeAction)
	manage("POST /v2/snaps", s.snapsAction)
	manage("POST /v2/snaps/{name}", s.snapAction)
	manage("POST /v2/apps", s.appsAction)
	configure("GET /v2/snaps/{name}/conf", s.conf)
	configure("PUT /v2/snaps/{name}/conf", s.setConf)
	admin("GET /v2/warnings", s.warnings)
	admin("POST /v2/warnings", s.okay)
	open("GET /v2/aliases", s.aliases)
	manage("POST /v2/aliases", s.changeAliases)
	open("GET /v2/notices", s.notices)
	open("POST /v2/notices", s.addNotice)
	open("GET /v2/notices/{id}", s.notice)
	open("GET /v2/snapshots", s.snapshots)
	manage("POST /v2/snapshots", s.snapshotAction)
	mux.Handle("GET /v2/logs", s.stream(s.logs))
	for _, a := range absences() {
		open(a.pattern, absent(a.sentence))
	}
	mux.Handle("/", s.elsewhere(mux))
	return s.caught(mux)
}

// handleOwn adds what snapd's API does not have.
func (s *server) handleOwn(open, admin, manage, configure func(string, handler)) {
	open("GET /v2/sources", s.inTurn(s.sources))
	configure("POST /v2/sources", s.sourcesAction)
	open("GET /v2/changes/{id}/watch", s.watch)
	manage("POST /v2/plan", s.plan)
	open("GET /v2/units", s.inTurn(s.units))
	admin("GET /v2/pins", s.pins)
	admin("GET /v2/daemon", s.daemon)
	admin("POST /v2/daemon", s.upgrade)
	admin("GET /v2/policy", s.policy)
	admin("POST /v2/policy/check", s.checkPolicy)
	admin("GET /v2/policy/explain", s.explainPolicy)
	admin("GET /v2/timeline", s.timeline)
	admin("GET /v2/allowances", s.allowances)
	configure("POST /v2/allowances", s.changeAllowance)
}

// elsewhere answers what no pattern of mux matches: what is there with other
// methods, and what is not there at all.
func (s *server) elsewhere(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var allowed []string
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut} {
			other := r.Clone(r.Context())
			other.Method = method
			if _, pattern := mux.Handler(other); pattern != "/" {
				allowed = append(allowed, method)
			}
		}
		if len(allowed) == 0 {
			s.fail(w, &requestError{status: http.StatusNotFound, message: fmt.Sprintf("there is no %s", r.URL.Path)})
			return
		}
		methods := strings.Join(allowed, ", ")
		w.Header().Set("Allow", methods)
		s.fail(w, &requestError{
			status:  http.StatusMethodNotAllowed,
			message: fmt.Sprintf("method %q not allowed on %s; it takes %s", r.Method, r.URL.Path, methods),
		})
	})
}
