package refresh

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"tenure"
	"tenure/internal/snapfile"
)

// completed are the apps of a snap that people run and that have a completer, by name.
func completed(info *snapfile.Snap) []tenure.App {
	return slices.DeleteFunc(commands(info), func(app tenure.App) bool { return info.App(app).Completer == "" })
}

// completionMark begins the files that are ours where bash looks for completions.
const completionMark = "# Written by tenured: the completer of a snap runs where its apps run.\n"

// complete has the arguments of a command completed by the completer of its app if that is one
// of completed, and else not. The file is the shell's to read and has no code of the snap.
// Whatever else has the name of the command is left alone, and no change fails for it.
func (m *Manager) complete(command string, snap tenure.Instance, app tenure.App, completed []tenure.App) {
	path := m.cfg.Paths.Completion(command)
	var err error
	if slices.Contains(completed, app) {
		err = m.writeCompletion(path, command, string(snap)+"."+string(app))
	} else if ownCompletion(path) {
		err = removeExisting(path)
	}
	if err != nil {
		m.cfg.Logger.Warn("the arguments of a command are not completed", slog.String("command", command), slog.Any("error", err))
	}
}

func (m *Manager) writeCompletion(path, command, app string) error {
	text := fmt.Sprintf("%s. %s\n_tenure_completes %s %s %s\n", completionMark, quote(m.cfg.Paths.Loader()), command, quote(m.cfg.Paths.Helper()), app)
	current, err := os.ReadFile(path)
	if err == nil && string(current) == text {
		return nil
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) && !ownCompletion(path) {
		return errors.Join(err, fmt.Errorf("%s is there, and is not of Tenure", path))
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // Everybody reads it.
		return err
	}
	return putFile(path, text, 0o644)
}

// ownCompletion reports whether a file is one that writeCompletion wrote.
func ownCompletion(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return false
	}
	text, err := os.ReadFile(path)
	return err == nil && strings.HasPrefix(string(text), completionMark)
}
