package refresh

import (
	"path/filepath"

	"tenure"
	"tenure/internal/entry"
)

// Paths are the places below one root (DESIGN.md section 7). The zero value is
// the machine's own root.
type Paths struct{ Root string }

func (p Paths) at(elem ...string) string {
	return filepath.Join(append([]string{"/", p.Root}, elem...)...)
}

// Mounts is where all snaps are. It is there from the start: clients of snapd take its
// absence for a system that has its snaps elsewhere.
func (p Paths) Mounts() string { return p.at("snap") }

// SnapDir is where the revisions of an instance are mounted.
func (p Paths) SnapDir(i tenure.Instance) string { return p.at("snap", string(i)) }

// Mount is where one revision is mounted.
func (p Paths) Mount(r tenure.Ref) string {
	return filepath.Join(p.SnapDir(r.Snap), r.Revision.String())
}

// Current is the link to the current revision.
func (p Paths) Current(i tenure.Instance) string { return filepath.Join(p.SnapDir(i), current) }

// Bin is where the commands of apps are.
func (p Paths) Bin() string { return p.at("snap", "bin") }

// Completion is where bash finds how the arguments of a command are completed.
func (p Paths) Completion(command string) string {
	return p.at("usr/share/bash-completion/completions", command)
}

// Loader is what the files there read.
func (p Paths) Loader() string { return p.at(entry.LoaderPath) }

// DataDir is where the data of an instance is.
func (p Paths) DataDir(i tenure.Instance) string { return p.at("var", "snap", string(i)) }

// Data is the data of one revision.
func (p Paths) Data(r tenure.Ref) string {
	return filepath.Join(p.DataDir(r.Snap), r.Revision.String())
}

// Common is the data that all revisions share.
func (p Paths) Common(i tenure.Instance) string { return filepath.Join(p.DataDir(i), "common") }

// DataCurrent is the link to the data of the current revision.
func (p Paths) DataCurrent(i tenure.Instance) string { return filepath.Join(p.DataDir(i), current) }

// State is the directory of what outlives the machine's run.
func (p Paths) State() string { return p.at("var", "lib", "tenure") }

// Policy is the file of the administrator's rules.
func (p Paths) Policy() string { return p.at("etc", "tenure", "policy.yaml") }

// KeptPolicy is the copy of the last good file of rules.
func (p Paths) KeptPolicy() string { return filepath.Join(p.State(), "policy.yaml") }

// Staging is where snap files arrive before they are admitted.
func (p Paths) Staging() string { return filepath.Join(p.State(), "staging") }

// Logs is where what units write is kept.
func (p Paths) Logs() string { return filepath.Join(p.State(), "logs") }

// Snapshots is where the data of snaps is saved.
func (p Paths) Snapshots() string { return filepath.Join(p.State(), "snapshots") }

// History is where what has happened is kept.
func (p Paths) History() string { return filepath.Join(p.State(), "history") }

// Run is the directory of what ends with the machine's run.
func (p Paths) Run() string { return p.at("run", "tenure") }

// SnapctlSocket is where snapctl talks to the daemon. Its directory has nothing else:
// units see it.
func (p Paths) SnapctlSocket() string { return filepath.Join(p.Run(), "snapctl", "snapctl.sock") }

// Programs is a directory with snapctl alone, for the PATH of what sees the host's files.
func (p Paths) Programs() string { return filepath.Join(p.Run(), "programs") }

// Helper is the program that becomes an app.
func (p Paths) Helper() string { return p.at(entry.HelperPath) }

// EntrySocket is where the helper asks.
func (p Paths) EntrySocket() string { return p.at(entry.SocketPath) }

// Tmp is the private /tmp of an instance.
func (p Paths) Tmp(i tenure.Instance) string { return filepath.Join(p.Run(), "tmp", string(i)) }

// UserDir is where root's own data of an instance is.
func (p Paths) UserDir(i tenure.Instance) string { return p.at(rootHome, "snap", string(i)) }

// Private reports whether this is an instance of its own below a directory.
func (p Paths) Private() bool { return p.at() != "/" }

const current = "current"

// SnapMountDir is the directory with the directories of all snaps.
func (p Paths) SnapMountDir() string { return p.at("snap") }
