package refresh

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"tenure/internal/sandbox"
	"tenure/internal/snapfile"
)

// profile is what a process of r sees and may do. Seccomp, Landlock and device
// filters come with interfaces; they will be further fields of it.
func (l launcher) profile(r *installed, app *snapfile.App) sandbox.Profile {
	return l.profileFor(r, app, person{home: rootHome})
}

// person is a user as the processes of a profile see it.
type person struct {
	// home is the home directory.
	home string
	// user is that it is not root's, and own is where what the user has of the snap is, on the
	// host; empty for one who has nothing.
	user bool
	own  string
}

// profileFor is profile for a process of a person.
func (l launcher) profileFor(r *installed, app *snapfile.App, who person) sandbox.Profile {
	if r.classic() {
		return sandbox.Profile{Root: sandbox.RootHost, AllCapabilities: true}
	}
	plugged := interfaces(r, app)
	profile := sandbox.Profile{
		Root:             sandbox.RootEmpty,
		Mounts:           l.mounts(r, plugged, who),
		KeepCapabilities: sandbox.DefaultCapabilities(plugged),
		NoNewPrivs:       true,
	}
	if !r.Base.IsZero() {
		profile.Root, profile.Base = sandbox.RootBase, l.paths.Mount(r.Base)
	}
	if r.Options.DevMode {
		// A person could have a program with a set-uid bit see what the snap says.
		profile.AllCapabilities, profile.KeepCapabilities, profile.NoNewPrivs = true, nil, who.user
	}
	return profile
}

// interfaces are the interfaces that an app plugs: its own, and those of the
// snap that neither an app nor a hook names, which go to all.
func interfaces(r *installed, app *snapfile.App) []string {
	var found []string
	for _, plug := range r.Info.Plugs {
		if slices.Contains(app.Plugs, plug.Name) || !isNamed(r.Info, plug.Name) {
			found = append(found, plug.Interface)
		}
	}
	return found
}

func isNamed(info *snapfile.Snap, plug string) bool {
	return slices.ContainsFunc(info.Apps, func(app snapfile.App) bool { return slices.Contains(app.Plugs, plug) }) ||
		slices.ContainsFunc(info.Hooks, func(hook snapfile.Hook) bool { return slices.Contains(hook.Plugs, plug) })
}

func (l launcher) mounts(r *installed, plugged []string, who person) []sandbox.Mount {
	mounts := append(l.system(r), l.homes(r, plugged, who)...)
	// An instance is seen under the plain name of its snap, which is compiled into
	// packages, and under its own.
	for _, name := range []string{r.Info.Name, string(r.Ref.Snap)} {
		data := path.Join("/var/snap", name)
		mounts = append(mounts,
			sandbox.Mount{Kind: sandbox.Slave, Source: l.paths.SnapDir(r.Ref.Snap), Target: path.Join("/snap", name)},
			sandbox.Mount{Kind: sandbox.Bind, Source: l.paths.DataDir(r.Ref.Snap), Target: data},
		)
		if name == string(r.Ref.Snap) {
			break
		}
	}
	for i := range r.Info.Layout {
		mounts = append(mounts, l.layout(r, &r.Info.Layout[i]))
	}
	// Nothing may come below a shared mount, so it comes last.
	return append(mounts, sandbox.Mount{
		Kind: sandbox.Shared, Source: l.paths.Common(r.Ref.Snap), Target: path.Join("/var/snap", r.Info.Name, "common"),
	})
}

// system is what every confined unit sees beside what is its own.
func (l launcher) system(r *installed) []sandbox.Mount {
	bind := func(source, target string, optional bool) sandbox.Mount {
		return sandbox.Mount{Kind: sandbox.Bind, Source: source, Target: target, Optional: optional}
	}
	tmp := l.paths.Tmp(r.Ref.Snap)
	mounts := []sandbox.Mount{
		{Kind: sandbox.Proc, Target: "/proc"},
		{Kind: sandbox.Sys, Target: "/sys"},
		{Kind: sandbox.Dev, Target: "/dev"},
		{Kind: sandbox.Tmpfs, Target: "/run", Mode: 0o755},
		bind("/run/dbus", "/run/dbus", true),
		bind("/run/udev", "/run/udev", true),
		bind("/run/systemd/resolve", "/run/systemd/resolve", true),
		bind(filepath.Join(tmp, "tmp"), "/tmp", false),
		bind(filepath.Join(tmp, "var-tmp"), "/var/tmp", false),
		bind(filepath.Join(tmp, "run-user"), runtimeDirs, false),
		{Kind: sandbox.Tmpfs, Target: "/snap", ReadOnly: true},
		{Kind: sandbox.Tmpfs, Target: "/var/snap", ReadOnly: true},
	}
	mounts = append(mounts, l.calls(r)...)
	for _, name := range []string{"hosts", "hostname", "resolv.conf", "localtime", "timezone", "machine-id"} {
		mount := bind(path.Join("/etc", name), path.Join("/etc", name), true)
		mount.ReadOnly = true
		mounts = append(mounts, mount)
	}
	for _, name := range []string{"passwd", "group"} {
		mount := bind(filepath.Join(l.usernames, name), path.Join("/etc", name), false)
		mount.ReadOnly = true
		mounts = append(mounts, mount)
	}
	return mounts
}

// snapctlBin is where units with a root of their own find snapctl.
const snapctlBin = "/run/tenure/bin"

// calls are snapctl and what it talks to. Bases for snaps have a link to where snapd
// has the program.
func (l launcher) calls(r *installed) []sandbox.Mount {
	dir := filepath.Dir(l.paths.SnapctlSocket())
	mounts := []sandbox.Mount{
		{Kind: sandbox.Bind, Source: dir, Target: "/run/tenure/snapctl", ReadOnly: true},
		{Kind: sandbox.Bind, Source: l.snapctl, Target: snapctlBin + "/snapctl", ReadOnly: true, Optional: true},
	}
	if r.Base.IsZero() {
		return mounts
	}
	if info, err := os.Lstat(filepath.Join(l.paths.Mount(r.Base), snapdLib)); err == nil && info.IsDir() {
		mounts = append(mounts, sandbox.Mount{
			Kind: sandbox.Bind, Source: l.snapctl, Target: snapdLib + "/snapctl", ReadOnly: true, Optional: true,
		})
	}
	return mounts
}

// snapdLib is where bases for snaps expect snapd's programs.
const snapdLib = "/usr/lib/snapd"

// homes are people's home directories, for those that plug them; all others see
// what is their own in that of their user.
func (l launcher) homes(r *installed, plugged []string, who person) []sandbox.Mount {
	all := slices.Contains(plugged, "home") || r.Options.DevMode
	people := sandbox.Mount{Kind: sandbox.Bind, Source: l.paths.at("home"), Target: "/home", Optional: true}
	own := sandbox.Mount{Kind: sandbox.Bind, Source: who.own, Target: path.Join(who.home, "snap", string(r.Ref.Snap))}
	switch {
	case !who.user && all:
		return []sandbox.Mount{{Kind: sandbox.Bind, Source: l.paths.at(rootHome), Target: rootHome}, people}
	case !who.user:
		own.Source, own.Optional = l.paths.UserDir(r.Ref.Snap), true
		return []sandbox.Mount{{Kind: sandbox.Tmpfs, Target: rootHome, Mode: 0o700, ReadOnly: true}, own}
	case all && (who.own == "" || strings.HasPrefix(who.home, "/home/")):
		return []sandbox.Mount{people}
	case all:
		return []sandbox.Mount{people, own}
	case who.own == "":
		return nil
	}
	return []sandbox.Mount{own}
}

// layout is one layout of the snap. Its source is the snap's own to choose, and
// is looked for in the unit's root, which no link leads out of.
func (l launcher) layout(r *installed, layout *snapfile.Layout) sandbox.Mount {
	v := l.paths.view(r, rootHome)
	expand := func(s string) string {
		for variable, dir := range map[string]string{"$SNAP_COMMON": v.common, "$SNAP_DATA": v.data, "$SNAP": v.snap} {
			if rest, ok := strings.CutPrefix(s, variable); ok && (rest == "" || rest[0] == '/') {
				return path.Join(dir, rest)
			}
		}
		return s
	}
	mount := sandbox.Mount{Source: expand(layout.Source), Target: expand(layout.Target), Mode: layout.Mode}
	switch layout.Kind {
	case snapfile.LayoutBind, snapfile.LayoutBindFile:
		mount.Kind, mount.Inside, mount.Mode = sandbox.Bind, true, 0
		mount.File = layout.Kind == snapfile.LayoutBindFile
	case snapfile.LayoutSymlink:
		mount.Kind, mount.Mode = sandbox.Symlink, 0
	case snapfile.LayoutTmpfs:
		mount.Kind, mount.Source = sandbox.Tmpfs, ""
	}
	return mount
}
