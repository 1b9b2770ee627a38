package snapfile

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"tenure"
)

// The bounds of a description; see also those of the tree in node.go.
const (
	maxApps      = 256
	maxHooks     = 128
	maxPlugs     = 512
	maxLayouts   = 256
	maxVariables = 512
	maxList      = 256
)

// Parse checks the bytes of meta/snap.yaml and the names of the files in
// meta/hooks, both of which nobody trusts yet. Its error is an *InvalidError
// with everything that is wrong.
func Parse(yaml []byte, hooks []string) (*Snap, error) {
	p := &parser{}
	root, ok := p.read(yaml)
	if !ok {
		return nil, p.err()
	}
	o := root.object(0)
	snap := o.header()
	snap.Epoch = o.epoch()
	snap.Environment = o.environment()
	snap.Links = o.links()
	snap.SystemUsernames = o.systemUsernames()
	snap.Plugs = o.plugs("plugs")
	snap.Slots = o.plugs("slots")
	snap.Layout = o.layouts()
	snap.Hooks = o.hooks(hooks)
	snap.Apps = o.apps(snap.Name, snap.Slots)
	o.checkHeader(snap)
	addImplicitPlugs(o, snap)
	if typo, found := o.take("layouts"); found {
		typo.fail(`the key "layouts"`, `"layout"`)
	}
	o.finish("provenance", "components", "snapd-info")
	snap.Ignored = p.ignored
	if err := p.err(); err != nil {
		return nil, err
	}
	return snap, nil
}

// header reads the keys that stand alone.
func (o *object) header() *Snap {
	snap := &Snap{
		Name:        o.required("name", "1 to 40 of a-z, 0-9 and single inner dashes, with a letter", func(s string) bool { return tenure.CheckSnapName(s) == nil }),
		Version:     o.required("version", "1 to 32 of letters, digits and : . + ~ -, starting with a letter or digit, ending with one of those or + or ~", versionForm.matches),
		Title:       o.text("title", "at most 40 characters", upTo(40)),
		Summary:     o.text("summary", "at most 128 characters", upTo(128)),
		Description: o.text("description", "at most 4096 characters", upTo(4096)),
		License:     o.text("license", "an SPDX expression of at most 256 characters", form(256, licenseForm)),
		Base:        o.text("base", "the name of a snap, none", func(s string) bool { return tenure.CheckSnapName(s) == nil }),
		Type:        choice(o, "type", TypeApp, TypeBase, "core", TypeOS, TypeGadget, TypeKernel, TypeSnapd),
		Confinement: choice(o, "confinement", Strict, Devmode, Classic),
		Grade:       choice(o, "grade", Stable, Devel),
		Assumes:     sorted(o.texts("assumes", maxList, "names of features, such as snapd2.55", form(64, featureForm))),
	}
	if snap.Confinement == "" {
		snap.Confinement = Strict
	}
	if snap.Grade == "" {
		snap.Grade = Stable
	}
	switch {
	case snap.Name == "snapd":
		snap.Type = TypeSnapd // Its file says app, for reasons of old.
	case snap.Type == "core":
		snap.Type = TypeOS
	case snap.Type == "":
		snap.Type = TypeApp
	}
	snap.Architectures = o.architectures()
	return snap
}

// architectures may be one name or a list of them.
func (o *object) architectures() []string {
	const accepted = "names of architectures, such as amd64, or all"
	var names []string
	if v, found := o.take("architectures"); found && v.isScalar() {
		names = []string{v.text(accepted, archForm.matches)}
	} else {
		names = sorted(o.texts("architectures", maxList, accepted, archForm.matches))
	}
	if len(names) == 0 {
		return []string{"all"}
	}
	return names
}

// checkHeader is about keys that depend on each other.
func (o *object) checkHeader(snap *Snap) {
	base, found := o.take("base")
	if found && snap.Base != "" && snap.Base != BaseNone && (snap.Type == TypeBase || snap.Type == TypeOS) {
		base.wants("none, or no base, for a snap of type " + string(snap.Type))
	}
	declared := func(name string) bool {
		return slices.ContainsFunc(snap.Hooks, func(h Hook) bool { return h.Name == name && h.Present })
	}
	if declared("default-configure") && !declared("configure") {
		o.p.add(&ValueError{File: HooksDir, Found: "default-configure without configure", Accepted: "both, or configure alone"})
	}
}

// environment reads the map of that name in its order.
func (o *object) environment() Env {
	v, found := o.take("environment")
	if !found {
		return nil
	}
	var env Env
	for _, f := range v.object(maxVariables).fields {
		if !envNameForm.matches(f.name) {
			f.fail("the name "+quote(f.name), "names of at most 256 characters without = and spaces")
			continue
		}
		if f.isNull() {
			env = append(env, EnvVar{Name: f.name})
			continue
		}
		if text, ok := f.scalar("text"); ok {
			env = append(env, EnvVar{Name: f.name, Value: text})
		}
	}
	return env
}

func (o *object) links() map[string][]string {
	const accepted = "http and https URLs, and mail addresses"
	v, found := o.take("links")
	if !found {
		return nil
	}
	links := make(map[string][]string)
	for _, f := range v.object(maxList).fields {
		if !form(64, linkKindForm)(f.name) {
			f.fail("the name "+quote(f.name), "contact, donation, issues, source-code, website, or letters, digits and single inner dashes")
			continue
		}
		entries := []value{f.value}
		if !f.isScalar() {
			entries = f.list(maxList, "a list")
		}
		for _, entry := range entries {
			if link := entry.text(accepted, isLink); link != "" {
				links[f.name] = append(links[f.name], link)
			}
		}
	}
	if len(links) == 0 {
		return nil
	}
	return links
}

func isLink(s string) bool {
	u, err := url.Parse(s)
	if err != nil || len(s) > 2048 {
		return false
	}
	switch u.Scheme {
	case "http", "https":
		return u.Host != ""
	case "", "mailto":
		return strings.Contains(s, "@")
	default:
		return false
	}
}

// systemUsernames reads both forms: "snap_daemon: shared" and
// "snap_daemon: {scope: shared}".
func (o *object) systemUsernames() []SystemUsername {
	v, found := o.take("system-usernames")
	if !found {
		return nil
	}
	known := []string{"_daemon_", "snap_aziotdu", "snap_aziotedge", "snap_daemon", "snap_microk8s"}
	var users []SystemUsername
	for _, f := range v.object(maxList).fields {
		if !slices.Contains(known, f.name) {
			f.fail("the name "+quote(f.name), strings.Join(known, ", "))
			continue
		}
		user := SystemUsername{Name: f.name}
		if f.isScalar() {
			user.Scope = choiceOf(f.value, "shared")
		} else {
			inner := f.object(0)
			user.Scope = inner.required("scope", "shared", func(s string) bool { return s == "shared" })
			inner.finish()
		}
		users = append(users, user)
	}
	slices.SortFunc(users, func(a, b SystemUsername) int { return strings.Compare(a.Name, b.Name) })
	return users
}

// hooks are the executables of meta/hooks and what snap.yaml says of them. A
// file whose name cannot be that of a hook is no hook, and listed as ignored;
// so is one whose name is too long for a unit.
func (o *object) hooks(files []string) []Hook {
	byName := make(map[string]*Hook)
	if len(files) > maxList {
		o.p.add(&ValueError{File: HooksDir, Found: "too many files", Accepted: "at most 256 files"})
		files = nil
	}
	for _, file := range files {
		if isName(file) {
			byName[file] = &Hook{Name: file, Present: true}
		} else {
			o.p.ignore(HooksDir + "/" + clip(file))
		}
	}
	o.declaredHooks(byName)
	var hooks []Hook
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		hooks = append(hooks, *byName[name])
	}
	return hooks
}

// declaredHooks adds what snap.yaml says of hooks.
func (o *object) declaredHooks(byName map[string]*Hook) {
	v, found := o.take("hooks")
	if !found {
		return
	}
	for _, f := range v.object(maxHooks).fields {
		if !isPlug(f.name) {
			f.fail("the name "+quote(f.name), acceptedName)
			continue
		}
		if !isName(f.name) {
			o.p.ignore(f.key)
			continue
		}
		hook := byName[f.name]
		if hook == nil {
			hook = &Hook{Name: f.name}
			byName[f.name] = hook
		}
		inner := f.object(0)
		hook.CommandChain = inner.commandChain()
		hook.Environment = inner.environment()
		hook.Plugs = inner.plugNames("plugs")
		hook.Slots = inner.plugNames("slots")
		inner.finish("passthrough")
	}
}

// sorted also removes duplicates.
func sorted[S ~string](list []S) []S {
	slices.Sort(list)
	return slices.Compact(list)
}
