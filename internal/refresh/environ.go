package refresh

import (
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"tenure"
	"tenure/internal/snapfile"
)

// view is where a unit sees what is its own. A confined unit sees the usual
// places whatever the root of this Tenure is; a classic one sees the host's.
type view struct {
	snap, data, common string
	// home is where the user's own data is: below the user's home directory.
	home string
}

func (p Paths) view(r *installed, home string) view {
	if r.classic() {
		userDir := p.at(home, "snap", string(r.Ref.Snap))
		return view{snap: p.Mount(r.Ref), data: p.Data(r.Ref), common: p.Common(r.Ref.Snap), home: userDir}
	}
	// Inside, an instance stands under the plain name of its snap, since
	// packages have that name compiled in.
	name, rev := r.Info.Name, r.Ref.Revision.String()
	return view{
		snap:   path.Join("/snap", name, rev),
		data:   path.Join("/var/snap", name, rev),
		common: path.Join("/var/snap", name, "common"),
		home:   path.Join(home, "snap", string(r.Ref.Snap)),
	}
}

// userData and userCommon are the user's data of a revision, and of all.
func (v view) userData(rev tenure.Revision) string { return path.Join(v.home, rev.String()) }
func (v view) userCommon() string                  { return path.Join(v.home, "common") }

// user is who runs something.
type user struct {
	uid  int
	home string
	// env is the environment that it brings; nil for services.
	env []string
}

// runtimeDir is where a user's sockets are, as the user sees it.
func (u user) runtimeDir(snap tenure.Instance) string {
	return path.Join(runtimeDirs, strconv.Itoa(u.uid), "snap."+string(snap))
}

// runtimeDirs has the runtime directories of all users.
const runtimeDirs = "/run/user"

// searchPath is where the programs of a base are.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/games:/usr/local/games"

// environ is the environment of a command of app (nil: of the snap alone): what
// every snap gets (https://snapcraft.io/docs/environment-variables), then what
// snap.yaml sets for the snap and the app, in order and expanded.
func (p Paths) environ(r *installed, own snapfile.Env, who user) []string {
	v := p.view(r, who.home)
	env := newEnviron(who.env)
	if !r.classic() {
		env = newEnviron(slices.DeleteFunc(slices.Clone(who.env), ofTheHost))
	}
	if !r.classic() || who.env == nil {
		env.set("PATH", searchPath)
	}
	if r.classic() {
		env.set("TENURE_SNAPCTL_SOCKET", p.SnapctlSocket())
		if who.env == nil {
			env.set("PATH", searchPath+":"+p.Programs())
		}
	} else {
		env.set("PATH", searchPath+":"+snapctlBin)
	}
	uid := strconv.Itoa(who.uid)
	for _, pair := range [][2]string{
		{"SNAP", v.snap},
		{"SNAP_DATA", v.data},
		{"SNAP_COMMON", v.common},
		{"SNAP_USER_DATA", v.userData(r.Ref.Revision)},
		{"SNAP_USER_COMMON", v.userCommon()},
		{"SNAP_NAME", r.Info.Name},
		{"SNAP_INSTANCE_NAME", string(r.Ref.Snap)},
		{"SNAP_INSTANCE_KEY", r.Ref.Snap.Key()},
		{"SNAP_VERSION", r.Info.Version},
		{"SNAP_REVISION", r.Ref.Revision.String()},
		{"SNAP_ARCH", DebianArch(runtime.GOARCH)},
		{"SNAP_LIBRARY_PATH", "/var/lib/snapd/lib/gl:/var/lib/snapd/lib/gl32:/var/lib/snapd/void"},
		{"SNAP_REEXEC", ""},
		{"SNAP_REAL_HOME", who.home},
		{"SNAP_UID", uid},
		{"SNAP_EUID", uid},
		{"XDG_RUNTIME_DIR", who.runtimeDir(r.Ref.Snap)},
	} {
		env.set(pair[0], pair[1])
	}
	switch {
	case !r.classic():
		env.set("HOME", v.userData(r.Ref.Revision))
	case env.get("HOME") == "":
		env.set("HOME", who.home)
	}
	for _, entry := range snapfile.ExpandEnv(slices.Concat(r.Info.Environment, own), env.get) {
		env.set(entry.Name, entry.Value)
	}
	return env.list
}

// ofTheHost reports whether a variable of a person's environment names what a confined
// app does not see: libraries and directories of the host.
func ofTheHost(entry string) bool {
	name, _, _ := cutEnv(entry)
	switch name {
	case "TMPDIR", "TEMPDIR", "TMP", "TEMP", "GCONV_PATH", "LOCPATH", "NLSPATH", "TZDIR":
		return true
	}
	return strings.HasPrefix(name, "LD_")
}

// DebianArch is Debian's name of what Go calls goarch.
func DebianArch(goarch string) string {
	switch goarch {
	case "386":
		return "i386"
	case "arm":
		return "armhf"
	case "ppc64le":
		return "ppc64el"
	default:
		return goarch
	}
}

// environ is an environment in the making: one entry for each name, in the
// order in which they were first set.
type environ struct {
	list  []string
	index map[string]int
}

func newEnviron(from []string) *environ {
	e := &environ{index: make(map[string]int, len(from))}
	for _, entry := range from {
		if name, value, ok := cutEnv(entry); ok {
			e.set(name, value)
		}
	}
	return e
}

func (e *environ) set(name, value string) {
	entry := name + "=" + value
	if at, ok := e.index[name]; ok {
		e.list[at] = entry
		return
	}
	e.index[name] = len(e.list)
	e.list = append(e.list, entry)
}

func (e *environ) get(name string) string {
	at, ok := e.index[name]
	if !ok {
		return ""
	}
	_, value, _ := cutEnv(e.list[at])
	return value
}
