// Package snapfile turns the bytes of meta/snap.yaml and the list of hooks into
// a checked description of a snap.
//
// What is always true: every name in a Snap is safe in a file name, every path
// stays where the format allows it to point, every number is bounded, every
// enumeration holds one of its constants, and equal bytes give equal values in
// equal order. A Snap survives encoding/json unchanged, since the journal keeps
// it that way. Whether a snap may be installed here is decided elsewhere.
//
// The package is pure: it neither reads files nor the clock, and all its
// functions may run concurrently.
//
// The format is that of the public reference
// (https://snapcraft.io/docs/the-snap-format and
// https://snapcraft.io/docs/snapcraft-yaml-reference) and the lifecycle block
// of Tenure's own design. Keys that neither knows are ignored, and listed.
package snapfile

import (
	"slices"

	"tenure"
)

// File is the name under which errors speak of the description.
const File = "meta/snap.yaml"

// HooksDir is where a snap keeps its hooks.
const HooksDir = "meta/hooks"

// Snap is the checked content of one meta/snap.yaml. Lists that have no order
// of their own are sorted by name.
type Snap struct {
	Name        string      `json:"name"`
	Version     string      `json:"version"`
	Title       string      `json:"title,omitempty"`
	Summary     string      `json:"summary,omitempty"`
	Description string      `json:"description,omitempty"`
	Type        Type        `json:"type"`
	Confinement Confinement `json:"confinement"`
	Grade       Grade       `json:"grade"`
	// Base is the name of the snap that is the root of this one's namespace,
	// BaseNone, BaseBare, or empty when the file names none. Snaps of type app
	// without a base are made for "core"; see EffectiveBase.
	Base string `json:"base,omitempty"`
	// Architectures are Debian's names, or "all" alone, the default.
	Architectures []string `json:"architectures"`
	License       string   `json:"license,omitempty"`
	// Links are lists of URLs and mail addresses by kind (contact, donation,
	// issues, source-code, website and others).
	Links           map[string][]string `json:"links,omitempty"`
	Epoch           Epoch               `json:"epoch"`
	Assumes         []string            `json:"assumes,omitempty"`
	Environment     Env                 `json:"environment,omitempty"`
	Layout          []Layout            `json:"layout,omitempty"`
	Plugs           []Plug              `json:"plugs,omitempty"`
	Slots           []Plug              `json:"slots,omitempty"`
	SystemUsernames []SystemUsername    `json:"system-usernames,omitempty"`
	Apps            []App               `json:"apps,omitempty"`
	Hooks           []Hook              `json:"hooks,omitempty"`
	// Ignored names, as "apps.web.stop-mod (line 7)", the keys that nothing
	// here knows, for a packer to warn about. It is bounded.
	Ignored []string `json:"ignored,omitempty"`
}

// Type is what a snap is to the system.
type Type string

// The types of snaps. "core" in a file is TypeOS, its name of old.
const (
	TypeApp    Type = "app"
	TypeBase   Type = "base"
	TypeOS     Type = "os"
	TypeGadget Type = "gadget"
	TypeKernel Type = "kernel"
	TypeSnapd  Type = "snapd"
)

// Confinement is what a snap was made to run under.
type Confinement string

// The confinements; strict is the default.
const (
	Strict  Confinement = "strict"
	Devmode Confinement = "devmode"
	Classic Confinement = "classic"
)

// Grade is the quality that the publisher claims.
type Grade string

// The grades; stable is the default.
const (
	Stable Grade = "stable"
	Devel  Grade = "devel"
)

// Bases that are no snap with a root file system.
const (
	BaseNone = "none"
	BaseBare = "bare"
)

// Plug is a plug or a slot: a named end of an interface.
type Plug struct {
	Name      string `json:"name"`
	Interface string `json:"interface"`
	Label     string `json:"label,omitempty"`
	// Attrs holds only what encoding/json itself decodes into an any: nil,
	// bool, float64, string, []any and map[string]any.
	Attrs map[string]any `json:"attrs,omitempty"`
}

// SystemUsername is a user and a group of one name that a snap's processes may
// become.
type SystemUsername struct {
	Name string `json:"name"`
	// Scope is always "shared": the same ids for every snap that asks.
	Scope string `json:"scope"`
}

// Hook is an executable in meta/hooks, or a declaration of one.
type Hook struct {
	Name string `json:"name"`
	// Present is false when snap.yaml declares the hook but there is no file
	// for it; such a hook never runs.
	Present      bool      `json:"present"`
	CommandChain []Command `json:"command-chain,omitempty"`
	Environment  Env       `json:"environment,omitempty"`
	Plugs        []string  `json:"plugs,omitempty"`
	Slots        []string  `json:"slots,omitempty"`
}

// App is the app of that name, or nil.
func (s *Snap) App(name tenure.App) *App {
	at, found := slices.BinarySearchFunc(s.Apps, name, func(a App, name tenure.App) int {
		return compareStrings(a.Name, name)
	})
	if !found {
		return nil
	}
	return &s.Apps[at]
}

// Hook is the hook of that name if there is a file for it, or nil.
func (s *Snap) Hook(name string) *Hook {
	at, found := slices.BinarySearchFunc(s.Hooks, name, func(h Hook, name string) int {
		return compareStrings(h.Name, name)
	})
	if !found || !s.Hooks[at].Present {
		return nil
	}
	return &s.Hooks[at]
}

// EffectiveBase is the base that the snap runs on: snaps of type app, gadget
// and kernel that name none run on "core", as the public reference says; the
// others are their own root, which is told by the empty string.
func (s *Snap) EffectiveBase() string {
	if s.Base != "" {
		return s.Base
	}
	switch s.Type {
	case TypeApp, TypeGadget, TypeKernel:
		return "core"
	case TypeBase, TypeOS, TypeSnapd:
		return ""
	}
	return ""
}
