package packaging_test

import (
	"strings"
	"testing"
)

// TestADaemonStartsDuringAStop: where there is no daemon, who stops a unit is one for as long as that takes. A daemon
// that starts meanwhile does so at once, and ends the unit.
func TestADaemonStartsDuringAStop(t *testing.T) {
	t.Parallel()
	h := hallIn(install(t))
	// It ends by none of the signals that it is sent.
	h.run("sh", "-ec", `cd /root; rm /etc/tenure/policy.yaml; unsquashfs -q -n -d deaf /mnt/virt_1.snap
		sed -i 's/daemon: notify/daemon: simple/' deaf/meta/snap.yaml
		printf '#!/bin/sh\ntrap "" TERM\nwhile ! test -e $SNAP_COMMON/end; do sleep 0.1; done\n' >deaf/bin/virtd
		mksquashfs deaf deaf.snap -quiet -no-progress -noI -noD -noF -noX
		tenure remove virt; tenure install --dangerous deaf.snap`)
	before := h.unit()
	h.run("systemctl", "stop", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	h.run("systemctl", "stop", "--no-block", manager)
	h.await("a helper has the lock", func() bool { return strings.HasSuffix(strings.TrimSpace(h.read("run/tenure/lock")), " helper") })
	h.run("systemctl", "start", "tenured.socket", "tenured-snapctl.socket", "tenured.service")
	if now := h.unit(); now.state != "deactivating" || now.main != before.main {
		t.Errorf("with a daemon it is %+v, before it was %+v", now, before)
	}
	h.run("touch", "/var/snap/virt/common/end")
	h.await("it has ended", func() bool { return h.unit().state == "inactive" })
	if services := h.run("tenure", "services"); !strings.Contains(services, "inactive") {
		t.Errorf("the daemon says:\n%s", services)
	}
}
