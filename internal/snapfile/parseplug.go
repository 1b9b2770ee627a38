package snapfile

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// plugs reads the plugs or slots of a snap in their three forms: a name alone,
// "name: interface", and a map with the interface and its attributes.
func (o *object) plugs(key string) []Plug {
	v, found := o.take(key)
	if !found {
		return nil
	}
	var plugs []Plug
	for _, f := range v.object(maxPlugs).fields {
		if !isPlug(f.name) {
			f.fail("the name "+quote(f.name), "up to 100 of a-z, 0-9 and single inner dashes, starting with a letter")
			continue
		}
		plugs = append(plugs, f.plug())
	}
	slices.SortFunc(plugs, func(a, b Plug) int { return strings.Compare(a.Name, b.Name) })
	return plugs
}

func (f *field) plug() Plug {
	const accepted = "the name of an interface, or a map with interface and attributes"
	plug := Plug{Name: f.name, Interface: f.name}
	switch {
	case f.isNull():
	case f.isScalar():
		plug.Interface = f.text(accepted, isPlug)
	case f.node.Kind == yaml.MappingNode:
		inner := f.object(maxList)
		if name := inner.text("interface", "the name of an interface", isPlug); name != "" {
			plug.Interface = name
		}
		plug.Label = inner.text("label", "text", upTo(maxText))
		for _, attr := range inner.fields {
			if attr.name == "interface" || attr.name == "label" {
				continue
			}
			if strings.HasPrefix(attr.name, "$") {
				attr.fail("the name "+quote(attr.name), "names without a leading $")
				continue
			}
			if plug.Attrs == nil {
				plug.Attrs = make(map[string]any)
			}
			plug.Attrs[attr.name] = attr.data()
		}
	default:
		f.wants(accepted)
	}
	return plug
}

// data is what stands at v, in the types of encoding/json. The tree was
// measured, so the recursion is bounded.
func (v value) data() any {
	switch v.node.Kind {
	case yaml.MappingNode:
		data := make(map[string]any)
		for _, f := range v.object(0).fields {
			data[f.name] = f.data()
		}
		return data
	case yaml.SequenceNode:
		data := []any{}
		for _, entry := range v.list(maxValues, "") {
			data = append(data, entry.data())
		}
		return data
	case yaml.ScalarNode:
		return v.scalarData()
	case yaml.DocumentNode, yaml.AliasNode:
	}
	return nil
}

func (v value) scalarData() any {
	switch v.node.ShortTag() {
	case "!!null":
		return nil
	case "!!bool":
		var on bool
		if err := v.node.Decode(&on); err != nil {
			v.wants("true, false")
		}
		return on
	case "!!int", "!!float":
		const exact = 1 << 53 // The integers that a float64 holds exactly.
		var n float64
		if err := v.node.Decode(&n); err != nil || math.IsNaN(n) || math.Abs(n) > exact {
			v.wants(fmt.Sprintf("numbers from -%d to %d", int64(exact), int64(exact)))
			return nil
		}
		return n
	default:
		text, _ := v.scalar("text, a number, true or false")
		return text
	}
}

func (v value) isScalar() bool { return v.node.Kind == yaml.ScalarNode && !v.isNull() }

// plugNames are the plugs or slots that an app or a hook uses.
func (o *object) plugNames(key string) []string {
	return sorted(o.texts(key, maxPlugs, "names of plugs or slots: a-z, 0-9 and single inner dashes", isPlug))
}

// addImplicitPlugs declares what apps and hooks use by name alone: such a plug
// has the interface of its name. A plug and a slot may not share a name.
func addImplicitPlugs(o *object, snap *Snap) {
	var plugs, slots []string
	for i := range snap.Apps {
		plugs = append(plugs, snap.Apps[i].Plugs...)
		slots = append(slots, snap.Apps[i].Slots...)
		slots = append(slots, snap.Apps[i].ActivatesOn...)
	}
	for i := range snap.Hooks {
		plugs = append(plugs, snap.Hooks[i].Plugs...)
		slots = append(slots, snap.Hooks[i].Slots...)
	}
	snap.Plugs = withImplicit(snap.Plugs, plugs)
	snap.Slots = withImplicit(snap.Slots, slots)
	for _, plug := range snap.Plugs {
		if slices.ContainsFunc(snap.Slots, func(slot Plug) bool { return slot.Name == plug.Name }) {
			o.fail("a plug and a slot called "+strconv.Quote(plug.Name), "different names")
		}
	}
}

func withImplicit(declared []Plug, used []string) []Plug {
	known := make(map[string]bool, len(declared))
	for _, plug := range declared {
		known[plug.Name] = true
	}
	for _, name := range sorted(used) {
		if !known[name] {
			declared = append(declared, Plug{Name: name, Interface: name})
		}
	}
	slices.SortFunc(declared, func(a, b Plug) int { return strings.Compare(a.Name, b.Name) })
	return declared
}
