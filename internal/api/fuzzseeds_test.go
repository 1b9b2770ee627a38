package api

import "strings"

// seed is a request to begin with.
type seed struct {
	root, snapd                 bool
	method, target, media, body string
}

// requests has one for each that there is, from root and from a user, and such as have been
// tried on others.
func requests() (all []seed) {
	const object, form = "application/json", "multipart/form-data; boundary=x"
	add := func(method, target, media string, bodies ...string) {
		for _, body := range bodies {
			all = append(all, seed{true, false, method, target, media, body}, seed{false, true, method, target, media, body})
		}
	}
	for _, target := range []string{
		"/v2/system-info", "/v2/snaps?select=all&snaps=virt,x", "/v2/snaps/virt", "/v2/snaps/..%2f..%2fetc", "/v2/apps?select=service&names=virt.virtd",
		"/v2/find?q=virt", "/v2/find?name=virt", "/v2/find?select=refresh", "/v2/changes?select=all&for=virt", "/v2/changes/1",
		"/v2/changes/" + strings.Repeat("1,", 100) + "1", "/v2/changes/1/watch?after=0", "/v2/changes/18446744073709551616/watch?after=1",
		"/v2/snaps/virt/conf?keys=a.b,c", "/v2/snaps/system/conf?keys=refresh", "/v2/snaps/system/conf?keys=seed.loaded", "/v2/warnings?select=all",
		"/v2/aliases", "/v2/notices?types=warning&keys=x&after=2026-01-01T00:00:00Z&timeout=1ns", "/v2/notices?user-id=0", "/v2/notices?users=all",
		"/v2/notices/1", "/v2/snapshots?set=1&snaps=virt", "/v2/logs?n=1&names=virt", "/v2/logs?n=-1&names=virt.virtd/vm.3", "/v2/sources", "/v2/units",
		"/v2/pins?ref=virt_x1", "/v2/policy", "/v2/policy/explain?snap=virt&reason=refresh", "/v2/timeline?for=virt&since=2026-01-01T00:00:00Z",
		"/v2/allowances", "/v2/model", "/v2/nothing", "//v2/../v2/snaps", "/v2/snaps?select=%zz",
	} {
		add("GET", target, "", "")
	}
	add("DELETE", "/v2/snaps", "", "")
	for _, name := range []string{"virt", "../x", "a_b", "", "virt\x00"} {
		name = strings.ReplaceAll(name, "\x00", `\u0000`)
		for _, action := range []string{"install", "refresh", "revert", "remove", "enable", "disable", "start", "stop", "restart", "switch", "hold", "unhold", "snapshot"} {
			add("POST", "/v2/snaps", object, `{"action":"`+action+`","snaps":["`+name+`"]}`)
		}
		add("POST", "/v2/aliases", object, `{"action":"alias","snap":"`+name+`","app":"tool","alias":"../`+name+`"}`)
		add("POST", "/v2/notices", object, `{"action":"add","type":"snap-run-inhibit","key":"`+name+`"}`)
		add("POST", "/v2/allowances", object, `{"action":"allow","manager":"`+name+`","app":"virt.vm"}`)
		add("POST", "/v2/sources", object, `{"action":"add","name":"`+name+`","kind":"dir","location":"/nowhere"}`)
	}
	add("POST", "/v2/snaps/virt", object, `{"action":"refresh","revision":"x1","channel":"latest/edge","source":"s","amend":true}`,
		`{"action":"hold","time":"forever","hold-level":"general"}`, `{"action":"hold","time":"9999-99-99"}`, `{"action":"revert","revision":"-1"}`,
		`[]`, `null`, `"`, `{"action":1}`, `{"action":"stop","action":"start"}`, strings.Repeat("[", 100), `{"snaps":`+strings.Repeat("[", 100))
	add("POST", "/v2/apps", object, `{"action":"start","names":["virt.vm@a"],"args":["a","b"],"enable":true}`, `{"action":"stop","names":["virt.virtd/vm.1"],"disable":true}`,
		`{"action":"restart","reload":true,"names":["virt"]}`, `{"action":"start","names":["virt.vm@../../x"]}`)
	add("POST", "/v2/plan", object, `{"action":"stop","names":["virt.virtd"]}`, `{"action":"remove","snaps":["virt"],"purge":true,"terminate":true}`)
	add("POST", "/v2/changes/1", object, `{"action":"abort"}`)
	add("POST", "/v2/policy/check", object, `{"name":"x","content":"rules:\n- name: a\n  when: snap.name == \"virt\"\n  refresh: endure\n"}`,
		`{"name":"x","content":"a: &a [*a, *a]"}`)
	add("POST", "/v2/snapshots", object, `{"action":"restore","set":1,"snaps":["virt"],"users":["x"]}`, `{"action":"forget","set":18446744073709551615}`)
	add("POST", "/v2/warnings", object, `{"action":"okay","timestamp":"2026-01-01T00:00:00Z"}`)
	add("PUT", "/v2/snaps/virt/conf", object, `{"a.b":1,"a":{"c":[null]}}`, `{"..":0}`, `{"a":{"b.c":1},"a.b":2}`)
	add("PUT", "/v2/snaps/system/conf", object, `{"refresh.timer":"mon,10:00-12:00","refresh.retain":"2"}`, `{"refresh.hold":{}}`, `{"lifecycle.max-stop-timeout":"-1s"}`)
	const disposition = "--x\r\nContent-Disposition: form-data; name="
	add("POST", "/v2/snaps", form,
		disposition+"\"action\"\r\n\r\ninstall\r\n"+disposition+"\"dangerous\"\r\n\r\ntrue\r\n"+disposition+"\"snap\"; filename=\"../../etc/x.snap\"\r\n\r\nhsqs\r\n--x--\r\n",
		disposition+"\"name\"\r\n\r\n../x\r\n"+disposition+"\"snap\"; filename=\"x\"\r\n\r\n\r\n--x--\r\n",
		disposition+"\"action\"\r\n\r\nrefresh\r\n--x--\r\n", "--x\r\n\r\n\r\n--x--")
	return all
}
