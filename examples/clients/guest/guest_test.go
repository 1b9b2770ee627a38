package guest

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestReadLine(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		text string
		want Line
		err  error
	}{
		"empty":               {"", Line{}, nil},
		"counts":              {"boot 0\ntick 1\ntick 2\n", Line{Boots: 1, Counter: 2, Ticks: 2}, nil},
		"unfinished line":     {"boot 0\ntick 1\ntick", Line{Boots: 1, Counter: 1, Ticks: 1}, nil},
		"goes on after halt":  {"boot 0\ntick 1\nhalt 1\nboot 1\ntick 2\n", Line{Boots: 2, Halts: 1, Counter: 2, Ticks: 2}, nil},
		"killed between":      {"boot 0\ntick 1\nboot 2\ntick 3\n", Line{Boots: 2, Counter: 3, Ticks: 2}, nil},
		"old disk":            {"boot 41\ntick 42\n", Line{Boots: 1, Counter: 42, Ticks: 1}, nil},
		"step back":           {"boot 0\ntick 1\ntick 1\n", Line{Boots: 1, Counter: 1, Ticks: 1}, ErrStepBack},
		"gap":                 {"boot 0\ntick 1\ntick 3\n", Line{Boots: 1, Counter: 1, Ticks: 1}, ErrStepBack},
		"boot from old state": {"boot 0\ntick 1\ntick 2\nboot 1\n", Line{Boots: 1, Counter: 2, Ticks: 2}, ErrStepBack},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "serial.log")
			if err := os.WriteFile(path, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := ReadLine(path)
			if got != test.want || !errors.Is(err, test.err) {
				t.Errorf("ReadLine(%q) = %+v, %v, want %+v, %v", test.text, got, err, test.want, test.err)
			}
		})
	}
}

func TestReadLineRefusesOtherWords(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"disk 3\n", "tick\n", "tick x\n", "\n"} {
		path := filepath.Join(t.TempDir(), "serial.log")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if line, err := ReadLine(path); err == nil {
			t.Errorf("ReadLine(%q) = %+v, want an error", text, line)
		}
	}
}

func TestWaitHearsOfALineThatComesLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "serial.log")
	looked := make(chan struct{}, 1)
	written := make(chan error, 1)
	go func() {
		<-looked
		written <- os.WriteFile(path, []byte("boot 0\ntick 1\n"), 0o600)
	}()
	line, err := Wait(t.Context(), path, func(l Line) bool {
		select {
		case looked <- struct{}{}:
		default:
		}
		return l.Counter == 1
	})
	if want := (Line{Boots: 1, Counter: 1, Ticks: 1}); err != nil || line != want {
		t.Errorf("Wait = %+v, %v, want %+v", line, err, want)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Ticks(ctx, path, 1, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Ticks with an ended context: %v", err)
	}
}

func TestReadDisk(t *testing.T) {
	t.Parallel()
	disk := func(state string) string {
		path := filepath.Join(t.TempDir(), "disk.img")
		if err := os.WriteFile(path, append(make([]byte, sector), append([]byte(state), make([]byte, sector)...)...), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if state, err := ReadDisk(disk("")); err != nil || state != (State{}) {
		t.Errorf("new disk: %+v, %v", state, err)
	}
	if state, err := ReadDisk(disk("TENURE01\x02\x01\x00\x00\x01")); err != nil || state != (State{Counter: 258, Clean: true}) {
		t.Errorf("used disk: %+v, %v", state, err)
	}
	if _, err := ReadDisk(disk("TENURE99")); err == nil {
		t.Error("a strange disk is no error")
	}
}
