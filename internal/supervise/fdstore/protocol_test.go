package fdstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"tenure"
	"tenure/internal/supervise/fdstore/logfile"
)

// served runs a holder in this process and waits for its end, which must be by itself.
func served(t *testing.T, socket string) Config {
	t.Helper()
	spawn := func(ctx context.Context) error {
		answer, ready, err := os.Pipe()
		if err != nil {
			return err
		}
		defer answer.Close()
		done := make(chan error, 1)
		go func() {
			defer ready.Close()
			done <- Serve(context.WithoutCancel(ctx), ServeConfig{Socket: socket, Logs: filepath.Join(filepath.Dir(socket), "logs"), Ready: ready})
		}()
		t.Cleanup(func() {
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		_, err = answer.Read(make([]byte, 10))
		return err
	}
	return Config{Socket: socket, Spawn: spawn}
}

func newClient(t *testing.T, cfg Config) *Client {
	t.Helper()
	c, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func raw(t *testing.T, socket string) *packetConn {
	t.Helper()
	c, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	return c
}

// works fails the test unless the holder answers.
func works(t *testing.T, c *Client) {
	t.Helper()
	if _, err := c.List(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestSocketWithALongPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("long/", 50))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "holder.sock")
	works(t, newClient(t, served(t, socket)))
	info, err := os.Stat(socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestAStaleSocketIsReplaced(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "holder.sock")
	l, err := listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // The file stays, as after a kill.
	if _, err := os.Stat(socket); err != nil {
		t.Fatal(err)
	}
	works(t, newClient(t, served(t, socket)))
}

func TestNothingButASocketIsReplaced(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "holder.sock")
	if err := os.WriteFile(socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Serve(t.Context(), ServeConfig{Socket: socket}); err == nil {
		t.Error("a holder listens")
	}
	if data, _ := os.ReadFile(socket); string(data) != "precious" {
		t.Errorf("the file is %q", data)
	}
}

func TestAHolderWithoutClientsLosesPatience(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "holder.sock")
	if err := Serve(t.Context(), ServeConfig{Socket: socket, Patience: time.Millisecond}); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(socket); !os.IsNotExist(err) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestNonsense sends what no client would; each time that connection ends and nothing else.
func TestNonsense(t *testing.T) { //nolint:paralleltest // It counts the open files of this process.
	cfg := served(t, filepath.Join(t.TempDir(), "holder.sock"))
	c := newClient(t, cfg)
	hello, err := frame{Op: opHello}.encode()
	if err != nil {
		t.Fatal(err)
	}
	bundle, err := frame{Op: opBundle, Meta: meta{Bundle: []bundled{{Op: opHello}}}}.encode()
	if err != nil {
		t.Fatal(err)
	}
	replaced := func(at int, b byte) []byte { p := slices.Clone(hello); p[at] = b; return p }
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := int(null.Fd())
	for name, packet := range map[string]struct{ data, oob []byte }{
		"short":          {data: []byte("TH")},
		"magic":          {data: replaced(0, 'X')},
		"version":        {data: replaced(2, 99)},
		"op 0":           {data: replaced(3, 0)},
		"op 200":         {data: replaced(3, 200)},
		"length":         {data: replaced(4, 0xff)},
		"no JSON":        {data: replaced(8, 'x')},
		"bad unit":       {data: append([]byte("TH\x01\x02\x00\x00\x00\x13"), `{"unit":"../../etc"}`[:19]...)},
		"long":           {data: append(hello, make([]byte, maxFrame)...)},
		"two fds":        {data: hello, oob: unix.UnixRights(fd, fd)},
		"very many fds":  {data: hello, oob: unix.UnixRights(slices.Repeat([]int{fd}, 250)...)},
		"bundle":         {data: bundle, oob: unix.UnixRights(fd)},
		"short with fds": {data: []byte("TH"), oob: unix.UnixRights(fd)},
	} {
		before := openFiles(t)
		n := raw(t, cfg.Socket)
		if _, _, err := n.conn.WriteMsgUnix(packet.data, packet.oob, nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if f, fd, err := n.receive(); err == nil {
			fd.close()
			t.Errorf("%s is answered by %v", name, f)
		}
		n.conn.Close()
		works(t, c)
		if after := openFiles(t); len(after) > len(before)+2 { // The holder's end may be open yet.
			t.Errorf("%s: %d files are open, %d before", name, len(after), len(before))
		}
	}
}

// TestBundlesAreForWhoAsks puts more than one bundle holds, and reads it in packets as clients of
// this release and of earlier ones do.
func TestBundlesAreForWhoAsks(t *testing.T) {
	t.Parallel()
	cfg := served(t, filepath.Join(t.TempDir(), "holder.sock"))
	c := newClient(t, cfg)
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	want := make([]string, 2*maxBundle+1)
	for i := range want {
		want[i] = fmt.Sprintf("item %d", i)
		if err := c.Put(t.Context(), tenure.ServiceUnit("a", "a"), Listen, want[i], null); err != nil {
			t.Fatal(err)
		}
	}
	for asks, packets := range map[bool]int{true: 4, false: len(want) + 1} {
		n := raw(t, cfg.Socket)
		if err := n.send(frame{Op: opSync, Meta: meta{Bundles: asks}}, none); err != nil {
			t.Fatal(err)
		}
		names, got := receiveAll(t, n)
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("in bundles: %t (-want +got):\n%s", asks, diff)
		}
		if got != packets {
			t.Errorf("in bundles: %t: %d packets, want %d", asks, got, packets)
		}
	}
	if err := c.Forget(t.Context(), tenure.ServiceUnit("a", "a")); err != nil {
		t.Error(err)
	}
}

// receiveAll reads an answer to its end: the names of the items in it, and how many packets it came in.
func receiveAll(t *testing.T, c *packetConn) (names []string, packets int) {
	t.Helper()
	for {
		if len(c.unpacked) == 0 {
			packets++
		}
		f, fd, err := c.receive()
		if err != nil {
			t.Fatal(err)
		}
		if f.Op == opEnd {
			return names, packets
		}
		if fd == none {
			t.Errorf("%s has no descriptor", f.Meta.Name)
		}
		fd.close()
		names = append(names, f.Meta.Name)
	}
}

func openFiles(t *testing.T) []os.DirEntry {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// TestWrongRequests are well formed; they are answered by an error, and the connection stays.
func TestWrongRequests(t *testing.T) {
	t.Parallel()
	cfg := served(t, filepath.Join(t.TempDir(), "holder.sock"))
	newClient(t, cfg)
	n := raw(t, cfg.Socket)
	u := tenure.ServiceUnit("a", "a")
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd := descriptor(null.Fd())
	for _, wrong := range []received{
		{frame: frame{Op: opPut, Meta: meta{Unit: u, Kind: Stored, Name: "x"}}, fd: none},
		{frame: frame{Op: opPut, Meta: meta{Kind: Stored, Name: "x"}}, fd: fd},
		{frame: frame{Op: opPut, Meta: meta{Unit: u, Kind: "other", Name: "x"}}, fd: fd},
		{frame: frame{Op: opPut, Meta: meta{Unit: u, Kind: Stored, Name: "a:b"}}, fd: fd},
		{frame: frame{Op: opLog, Meta: meta{Unit: u, Stream: "x"}}, fd: none},
		{frame: frame{Op: opLog, Meta: meta{Unit: u, Stream: "x"}}, fd: fd},
		{frame: frame{Op: opLog, Meta: meta{Unit: u}}, fd: fd},
		{frame: frame{Op: opLog, Meta: meta{Stream: "x"}}, fd: fd},
		{frame: frame{Op: opCommit}, fd: none},
		{frame: frame{Op: opOK}, fd: none},
		{frame: frame{Op: opListener}, fd: fd},
	} {
		if err := n.send(wrong.frame, wrong.fd); err != nil {
			t.Fatal(err)
		}
		f, got, err := n.receive()
		if err != nil || f.Op != opError || f.Meta.Error == "" || got != none {
			t.Errorf("%s is answered by %s %v, %v", wrong.Op, f.Op, f.Meta, err)
		}
	}
}

// TestAnAbandonedHandOver has successors that die at each point before they commit, under a
// writer: the holder goes on and no line is lost.
func TestAnAbandonedHandOver(t *testing.T) {
	t.Parallel()
	cfg := served(t, filepath.Join(t.TempDir(), "holder.sock"))
	c := newClient(t, cfg)
	u := tenure.ServiceUnit("a", "a")
	w, err := c.Log(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	const rounds = 6
	for i := range rounds {
		if _, err := fmt.Fprintf(w, "line %d ", i); err != nil {
			t.Fatal(err)
		}
		n := raw(t, cfg.Socket)
		if err := n.send(frame{Op: opHandover}, none); err != nil {
			t.Fatal(err)
		}
		for range i / 2 { // Listener, stream, end.
			_, fd, err := n.receive()
			if err != nil {
				t.Fatal(err)
			}
			fd.close()
		}
		if i%2 == 1 {
			if err := n.send(frame{Op: opHello}, none); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := fmt.Fprintf(w, "goes on\n"); err != nil {
			t.Fatal(err)
		}
		n.conn.Close()
		works(t, c)
	}
	if err := cfg.Spawn(t.Context()); err != nil { // A successor in earnest.
		t.Fatal(err)
	}
	w.Close()
	reader := logfile.NewReader(filepath.Join(filepath.Dir(cfg.Socket), "logs"))
	i := 0
	for line, err := range reader.Logs(t.Context(), []tenure.UnitID{u}, -1, true) {
		if want := fmt.Sprintf("line %d goes on", i); err != nil || line.Text != want {
			t.Fatalf("line is %q, %v; want %q", line.Text, err, want)
		}
		if i++; i == rounds {
			break
		}
	}
	works(t, c)
	c.Close() // Both holders are waited for.
}

// TestAClientThatDoesNotRead is disconnected; others are answered meanwhile.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	cfg := served(t, filepath.Join(t.TempDir(), "holder.sock"))
	c := newClient(t, cfg)
	n := raw(t, cfg.Socket)
	for range 100 * queueLength {
		if err := n.send(frame{Op: opHello}, none); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Error(err)
			}
			works(t, c)
			return
		}
	}
	t.Error("it is still connected")
}

// TestStrangers are refused even where the mode of the socket would let them in.
func TestStrangers(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/tmp", "fdstore-strangers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cfg := served(t, filepath.Join(dir, "holder.sock"))
	c := newClient(t, cfg)
	if err := errors.Join(os.Chmod(dir, 0o755), os.Chmod(cfg.Socket, 0o666)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", cfg.Socket)
	cmd.Env = append(os.Environ(), "FDSTORE_TEST_ROLE=stranger")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "refused\n" {
		t.Errorf("a stranger gets %q, %v", out, err)
	}
	works(t, c)
}

// Stranger is the role of another user's process, which connects to the socket.
func Stranger(socket string) error {
	conn, err := net.DialUnix(network, nil, &net.UnixAddr{Net: network, Name: socket})
	if err != nil {
		return err
	}
	defer conn.Close()
	c := newPacketConn(conn, 1)
	_ = c.send(frame{Op: opSync}, none)
	if f, _, err := c.receive(); err == nil {
		return fmt.Errorf("answered by %v", f)
	}
	fmt.Println("refused")
	return nil
}

func TestFramesAreReadAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	want := frame{Op: opStream, Data: []byte("\x00half\xff"), Meta: meta{
		Unit: tenure.ServiceUnit("virt", "virtd").Workload("vm", 4711), Kind: Stored, Name: "x", Names: []string{"a", "b"},
		Stream: "s", PID: 7, Dropped: 8, Store: "n", Error: "e",
	}}
	packet, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := decode(packet)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	want.Data = make([]byte, maxData+1)
	if _, err := want.encode(); !errors.Is(err, errFrame) {
		t.Errorf("too much data: %v", err)
	}
}

func FuzzFrame(f *testing.F) {
	for _, seed := range []frame{
		{Op: opHello},
		{Op: opPut, Meta: meta{Unit: tenure.ServiceUnit("a", "a"), Kind: Listen, Name: "x"}},
		{Op: opStream, Data: []byte("half"), Meta: meta{PID: 1}},
		{Op: opRemove, Meta: meta{Names: []string{"", "\x00"}}},
	} {
		packet, err := seed.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packet)
	}
	f.Fuzz(func(t *testing.T, packet []byte) {
		got, err := decode(packet)
		if err != nil {
			if !errors.Is(err, errFrame) {
				t.Errorf("error is not of its kind: %v", err)
			}
			return
		}
		again, err := got.encode()
		if err != nil {
			t.Skip("JSON may grow beyond the limit when its strings are escaped")
		}
		back, err := decode(again)
		if err != nil {
			t.Fatalf("%v: %v", got, err)
		}
		if back.Op != got.Op || !bytes.Equal(back.Data, got.Data) || back.Meta.Unit != got.Meta.Unit || back.Meta.Name != got.Meta.Name {
			t.Errorf("%v becomes %v", got, back)
		}
	})
}
