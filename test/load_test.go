package test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"

	"tenure/test/rig"
)

const (
	writers = 4
	// reconnect is how long a writer that is refused waits before it asks again, as
	// clients of databases do.
	reconnect = 10 * time.Millisecond
	// pace is how often each client of a load asks, where nothing is said of full speed: what
	// a refresh needs is not to be what the load takes.
	pace = 10 * time.Millisecond
)

// load is a number of writers, each of which commits at a pace and writes what was
// acknowledged to a log of its own, outside the snap, before it goes on.
type load struct {
	socket  string
	writers []*writer
	done    sync.WaitGroup
	// still is locked by who wants the writers to stand still.
	still sync.RWMutex

	// mu guards what follows, and what the writers say of themselves.
	mu sync.Mutex
	// moved is closed, and made anew, whenever a writer has got on.
	moved chan struct{}
}

// writer commits pairs of rows, its id and a number, to two tables.
type writer struct {
	id   int
	load *load
	// log is the path of the durable log of what was acknowledged.
	log string

	commits int
	backend int
	// unsure are those whose commit was neither acknowledged nor refused.
	unsure map[string]bool
	// failed is why the writer has given up.
	failed error
}

// startLoad makes the tables and starts the writers. They end with the test.
func startLoad(t *testing.T, common string) *load {
	t.Helper()
	l := &load{socket: filepath.Join(common, "run"), moved: make(chan struct{})}
	l.query(t, "create table pairs (writer int, n int, primary key (writer, n)); create table twins (like pairs including all)")
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); l.done.Wait() })
	for id := range writers {
		w := &writer{id: id, load: l, log: filepath.Join(dir, fmt.Sprint(id)), unsure: map[string]bool{}}
		l.writers = append(l.writers, w)
		l.done.Go(func() {
			err := w.run(ctx)
			l.update(func() { w.failed = err })
		})
	}
	return l
}

func openSQL(ctx context.Context, dir string) (*pgconn.PgConn, error) {
	return pgconn.Connect(ctx, "host="+dir+" user=postgres dbname=postgres sslmode=disable")
}

// query asks the server on a connection of its own, and gives the rows of the
// last answer, their columns joined by spaces.
func (l *load) query(t *testing.T, sql string) []string {
	t.Helper()
	conn := openSession(t, l.socket)
	defer conn.Close(t.Context())
	return query(t, conn, sql)
}

// openSession connects to the server that has its socket in a directory.
func openSession(t *testing.T, dir string) *pgconn.PgConn {
	t.Helper()
	conn, err := openSQL(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// query gives the rows of the last statement of sql, their columns joined by spaces.
func query(t *testing.T, conn *pgconn.PgConn, sql string) []string {
	t.Helper()
	results, err := conn.Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	var rows []string
	for _, row := range results[len(results)-1].Rows {
		columns := make([]string, 0, len(row))
		for _, column := range row {
			columns = append(columns, string(column))
		}
		rows = append(rows, strings.Join(columns, " "))
	}
	return rows
}

// run commits, and connects again whenever its connection is lost.
func (w *writer) run(ctx context.Context) error {
	log, err := os.Create(w.log)
	if err != nil {
		return err
	}
	defer log.Close()
	var conn *pgconn.PgConn
	at := time.NewTicker(pace)
	defer at.Stop()
	for n := 0; ctx.Err() == nil; n++ {
		<-at.C
		if conn == nil || conn.IsClosed() {
			if conn, err = w.reconnect(ctx); err != nil {
				return err
			}
		}
		if err := w.step(ctx, conn, log, fmt.Sprintf("%d %d", w.id, n)); err != nil {
			return err
		}
	}
	return conn.Close(context.WithoutCancel(ctx))
}

// reconnect asks until the server takes it; only the end of the test ends it.
func (w *writer) reconnect(ctx context.Context) (*pgconn.PgConn, error) {
	for {
		conn, err := openSQL(ctx, w.load.socket)
		if err == nil {
			w.load.update(func() { w.backend = int(conn.PID()) })
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(reconnect):
		}
	}
}

// step commits one pair, and when that was acknowledged writes it to the log,
// durably. An error is of the log.
func (w *writer) step(ctx context.Context, conn *pgconn.PgConn, log *os.File, row string) error {
	w.load.still.RLock()
	defer w.load.still.RUnlock()
	if err := commit(ctx, conn, row); err != nil {
		_ = conn.Close(ctx) // It is lost already.
		w.load.update(func() { w.unsure[row] = true })
		return nil
	}
	if _, err := fmt.Fprintln(log, row); err != nil {
		return err
	}
	if err := log.Sync(); err != nil {
		return err
	}
	w.load.update(func() { w.commits++ })
	return nil
}

// commit writes one pair in a transaction.
func commit(ctx context.Context, conn *pgconn.PgConn, row string) error {
	values := " values (" + strings.ReplaceAll(row, " ", ", ") + "); "
	results, err := conn.Exec(ctx, "begin; insert into pairs"+values+"insert into twins"+values+"commit").ReadAll()
	if err != nil {
		return err
	}
	if len(results) != 4 || results[3].CommandTag.String() != "COMMIT" {
		return errors.New("no commit was acknowledged")
	}
	return nil
}

func (l *load) update(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	close(l.moved)
	l.moved = make(chan struct{})
}

// await waits until each writer has committed n times more.
func (l *load) await(t *testing.T, n int) {
	t.Helper()
	timeout := time.After(rig.Patience)
	goals := make([]int, len(l.writers))
	commits, moved := l.progress(t)
	for at := range commits {
		goals[at] = commits[at] + n
	}
	for {
		behind := slices.ContainsFunc(l.writers, func(w *writer) bool { return commits[w.id] < goals[w.id] })
		if !behind {
			return
		}
		select {
		case <-moved:
		case <-timeout:
			t.Fatalf("the writers do not get on: %v commits, want %v", commits, goals)
		}
		commits, moved = l.progress(t)
	}
}

// progress is how many commits of each writer were acknowledged, and what is
// closed when there are more.
func (l *load) progress(t *testing.T) (commits []int, moved <-chan struct{}) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range l.writers {
		if w.failed != nil {
			t.Fatalf("writer %d: %v", w.id, w.failed)
		}
		commits = append(commits, w.commits)
	}
	return commits, l.moved
}

// backend is the process that serves the first writer.
func (l *load) backend() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writers[0].backend
}

// check makes the writers stand still and compares: what was acknowledged is
// there, what is there was acknowledged or may have been, and no transaction is
// there by half.
func (l *load) check(t *testing.T) {
	t.Helper()
	l.still.Lock()
	defer l.still.Unlock()
	pairs := l.query(t, "select writer, n from pairs order by writer, n")
	if diff := cmp.Diff(pairs, l.query(t, "select writer, n from twins order by writer, n")); diff != "" {
		t.Errorf("half a transaction is there (-pairs +twins):\n%s", diff)
	}
	rows := map[string]bool{}
	for _, row := range pairs {
		rows[row] = true
	}
	acknowledged, unsure := 0, 0
	for _, w := range l.writers {
		for _, row := range w.acknowledged(t) {
			acknowledged++
			if !rows[row] {
				t.Errorf("the commit of %q was acknowledged, and it is not there", row)
			}
			delete(rows, row)
		}
		unsure += len(w.unsure)
		maps.DeleteFunc(rows, func(row string, _ bool) bool { return w.unsure[row] })
	}
	for row := range rows {
		t.Errorf("%q is there, and nobody has committed it", row)
	}
	t.Logf("%d commits were acknowledged and are there; of %d more nobody knew", acknowledged, unsure)
}

// acknowledged is what the log has.
func (w *writer) acknowledged(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(w.log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(text)), "\n")
}
