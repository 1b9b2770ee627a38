package client

import (
	"mime/multipart"
	"os"
	"path/filepath"
	"testing"
)

// TestFormLength holds what is said of a form against the form.
func TestFormLength(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, `a "snap".snap`)
	if err := os.WriteFile(file, make([]byte, 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, action := range []Action{
		{Action: "install", Dangerous: true, Files: []string{file}},
		{Action: "refresh", Name: "a_b", Channel: "edge", Now: true, Files: []string{file, filepath.Join(dir, ".", filepath.Base(file)), file}},
	} {
		var length count
		if err := writeForm(multipart.NewWriter(&length), action, sendFile); err != nil {
			t.Fatal(err)
		}
		if got := formLength(action); got != int64(length) {
			t.Errorf("%v: its form is %d bytes long, and said to be %d", action.Files, length, got)
		}
	}
	for _, none := range []string{filepath.Join(dir, "missing"), dir, os.DevNull} {
		if got := formLength(Action{Files: []string{file, none}}); got != 0 {
			t.Errorf("a form with %s is said to be %d bytes long", none, got)
		}
	}
}
