package fdstore_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"tenure"
	"tenure/internal/supervise/fdstore"
)

// file is an open file whose content tells which one it is.
func file(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "kept"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func put(t *testing.T, c *fdstore.Client, u tenure.UnitID, kind fdstore.Kind, name string, f *os.File) {
	t.Helper()
	if err := c.Put(t.Context(), u, kind, name, f); err != nil {
		t.Fatal(err)
	}
}

// contents are what is kept for a unit, as "kind name content".
func contents(t *testing.T, c *fdstore.Client, u tenure.UnitID) []string {
	t.Helper()
	kept, err := c.Get(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	var s []string
	for _, k := range kept {
		data := make([]byte, 100)
		n, _ := k.File.ReadAt(data, 0)
		s = append(s, fmt.Sprintf("%s %s %s", k.Kind, k.Name, data[:n]))
		k.File.Close()
	}
	return s
}

func forget(t *testing.T, c *fdstore.Client, units ...tenure.UnitID) {
	t.Helper()
	for _, u := range units {
		if err := c.Forget(t.Context(), u); err != nil {
			t.Error(err)
		}
	}
}

func TestKindsAndNames(t *testing.T) {
	t.Parallel()
	c := newRoot(t).client(t)
	u, other := unit(t, "virt.virtd"), unit(t, "virt.vm@web1")
	a, b := file(t, "a"), file(t, "b")
	put(t, c, u, fdstore.Listen, "x", a)
	put(t, c, u, fdstore.Listen, "x", b) // Replaces.
	put(t, c, u, fdstore.Stored, "x", a)
	put(t, c, u, fdstore.Stored, "x", b) // Is added.
	put(t, c, u, fdstore.Stored, "x", a) // The same open file.
	put(t, c, u, fdstore.Stored, "y", a)
	put(t, c, u, fdstore.Notify, "x", a)
	put(t, c, other, fdstore.Stored, "x", a)
	check := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, contents(t, c, u)); diff != "" {
			t.Error(diff)
		}
	}
	check("listen x b", "stored x a", "stored x b", "stored y a", "notify x a")
	if err := c.Remove(t.Context(), u, fdstore.Stored, "x", "never"); err != nil {
		t.Error(err)
	}
	check("listen x b", "stored y a", "notify x a")
	if err := c.Remove(t.Context(), u, fdstore.Stored); err != nil {
		t.Error(err)
	}
	check("listen x b", "notify x a")
	items, err := c.List(t.Context())
	want := []fdstore.Item{{Unit: u, Kind: fdstore.Listen, Name: "x"}, {Unit: u, Kind: fdstore.Notify, Name: "x"}, {Unit: other, Kind: fdstore.Stored, Name: "x"}}
	if diff := cmp.Diff(want, items); diff != "" || err != nil {
		t.Error(diff, err)
	}
	forget(t, c, u)
	check()
	forget(t, c, other)
}

func TestNamesThatCannotBeKept(t *testing.T) {
	t.Parallel()
	c := newRoot(t).client(t)
	u, f := unit(t, "virt.virtd"), file(t, "")
	for _, bad := range []fdstore.Item{
		{Kind: fdstore.Stored, Name: "x"},
		{Unit: u, Kind: fdstore.Log, Name: "x"},
		{Unit: u, Name: "x"},
		{Unit: u, Kind: fdstore.Stored},
		{Unit: u, Kind: fdstore.Stored, Name: "a:b"},
		{Unit: u, Kind: fdstore.Stored, Name: "a\nb"},
		{Unit: u, Kind: fdstore.Stored, Name: "\xff"},
		{Unit: u, Kind: fdstore.Stored, Name: strings.Repeat("x", 256)},
	} {
		if err := c.Put(t.Context(), bad.Unit, bad.Kind, bad.Name, f); !errors.Is(err, fdstore.ErrName) {
			t.Errorf("put %v: %v", bad, err)
		}
	}
	if _, err := c.Log(t.Context(), tenure.UnitID{}); !errors.Is(err, fdstore.ErrName) {
		t.Errorf("log of nobody: %v", err)
	}
}

// doomedClient puts sockets and a log, says so, and waits to be killed. Arguments: socket,
// logs, limits (as the holder's), and the path of the listening socket.
func doomedClient() error {
	ctx := context.Background()
	spawner := fdstore.Spawner{Path: "/proc/self/exe", Args: os.Args[1:5], Env: append(os.Environ(), roleVariable+"=holder")}
	c, err := fdstore.New(ctx, fdstore.Config{Socket: os.Args[1], Spawn: spawner.Spawn})
	if err != nil {
		return err
	}
	u := tenure.ServiceUnit("virt", "virtd")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: os.Args[5]})
	if err != nil {
		return err
	}
	d, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: os.Args[5] + ".notify"})
	if err != nil {
		return err
	}
	lf, _ := l.File()
	df, _ := d.File()
	w, err := c.Log(ctx, u)
	if err := errors.Join(err, c.Put(ctx, u, fdstore.Listen, "listen", lf), c.Put(ctx, u, fdstore.Notify, "notify", df)); err != nil {
		return err
	}
	if _, err := w.WriteString("from the client\nunfinished "); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = bufio.NewReader(os.Stdin).ReadString('\n') // For ever.
	return err
}

// killedClient starts a doomedClient, queues a connection and two datagrams, and kills it.
func killedClient(t *testing.T, r *root) (queued net.Conn) {
	t.Helper()
	path := filepath.Join(r.dir, "service")
	args := append(r.spawner().Args, path)
	cmd := command(t, "client", args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("client says %q, %v", line, err)
	}
	dialer := net.Dialer{}
	queued, err = dialer.DialContext(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { queued.Close() })
	notify, err := dialer.DialContext(t.Context(), "unixgram", path+".notify")
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	for _, s := range []string{"READY=1", "STATUS=well"} {
		if _, err := notify.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	return queued
}

// checkSurvivors looks for what killedClient left, and takes the queued connection and datagrams.
func checkSurvivors(t *testing.T, c *fdstore.Client, queued net.Conn) {
	t.Helper()
	kept, err := c.Get(t.Context(), tenure.ServiceUnit("virt", "virtd"))
	if err != nil || len(kept) != 2 {
		t.Fatalf("kept are %v, %v", kept, err)
	}
	l, err := net.FileListener(kept[0].File)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, err := queued.Read(buf); err != nil || string(buf[:n]) != "hello" {
		t.Errorf("the queued connection gets %q, %v", buf[:n], err)
	}
	p, err := net.FilePacketConn(kept[1].File)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for _, want := range []string{"READY=1", "STATUS=well"} {
		if n, _, err := p.ReadFrom(buf); err != nil || string(buf[:n]) != want {
			t.Errorf("the notify socket gets %q, %v; want %q", buf[:n], err, want)
		}
	}
	kept[0].File.Close()
	kept[1].File.Close()
}

func TestKilledClient(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	queued := killedClient(t, r)
	c := r.client(t)
	checkSurvivors(t, c, queued)
	eventually(t, "end of the log", func() bool { return len(r.read(t, "virt.virtd")) == 2 })
	if diff := cmp.Diff([]string{"from the client", "unfinished "}, r.texts(t, "virt.virtd")); diff != "" {
		t.Error(diff)
	}
	forget(t, c, unit(t, "virt.virtd"))
}

// TestBothKilled kills the first client, then the holder: what the second client only knows from
// the holder is in the next one too.
func TestBothKilled(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	queued := killedClient(t, r)
	c := r.client(t)
	old := r.holder(t)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "another holder without a request", func() bool {
		pids := r.holders()
		return len(pids) == 1 && pids[0] != old
	})
	checkSurvivors(t, c, queued)
	forget(t, c, unit(t, "virt.virtd"))
}

func TestConcurrentClients(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			c, err := fdstore.New(t.Context(), fdstore.Config{Socket: r.socket(), Spawn: r.spawner().Spawn})
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			var users sync.WaitGroup
			for j := range 4 {
				users.Go(func() { exercise(t, c, unit(t, fmt.Sprintf("c%d.u%d", i, j))) })
			}
			users.Wait()
		})
	}
	group.Wait()
}

// exercise uses all methods for one unit.
func exercise(t *testing.T, c *fdstore.Client, u tenure.UnitID) {
	t.Helper()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for i := range 20 {
		name := fmt.Sprint(i)
		err := c.Put(t.Context(), u, fdstore.Stored, name, f)
		kept, getErr := c.Get(t.Context(), u)
		for _, k := range kept {
			k.File.Close()
		}
		w, logErr := c.Log(t.Context(), u)
		if w != nil {
			fmt.Fprintf(w, "line %d\n", i)
			w.Close()
		}
		_, listErr := c.List(t.Context())
		err = errors.Join(err, getErr, logErr, listErr, c.Remove(t.Context(), u, fdstore.Stored, name))
		if err != nil || len(kept) != 1 {
			t.Errorf("%d kept, %v", len(kept), err)
			return
		}
	}
}

func TestNoHolderCanBeStarted(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	_, err := fdstore.New(t.Context(), fdstore.Config{Socket: r.socket(), Spawn: fdstore.Spawner{Path: "/bin/false"}.Spawn})
	if err == nil || !strings.Contains(err.Error(), "/bin/false") || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	spawner := fdstore.Spawner{Path: "/bin/sleep", Args: []string{"0.1"}}
	if _, err := fdstore.New(ctx, fdstore.Config{Socket: r.socket(), Spawn: spawner.Spawn}); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

func TestRequestsEndWithTheirContextAndTheClient(t *testing.T) {
	t.Parallel()
	r := newRoot(t)
	c := r.client(t)
	ctx, cancel := context.WithCancel(t.Context())
	if err := syscall.Kill(r.holder(t), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := c.List(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
	if err := syscall.Kill(r.holder(t), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := c.List(t.Context()); err != nil {
		t.Error(err)
	}
	c.Close()
	c.Close()
	if _, err := c.List(t.Context()); !errors.Is(err, fdstore.ErrClosed) {
		t.Errorf("error is %v", err)
	}
}
