package manager

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// instances runs each machine as an instance of a template in another package, which
// knows where its files are and how it ends. The administrator has to allow it: "tenure
// allow virt to start qemu.vm".
type instances struct {
	template string
}

// boot has the machine come back, too, when the whole machine starts again.
func (i instances) boot(ctx context.Context, v *machine) error {
	_, err := snapctl(ctx, "start", "--enable", i.of(v), "--", "-uuid", v.UUID, "-m", "16")
	return err
}

func (i instances) attach(ctx context.Context, v *machine) error {
	if !i.running(ctx, v) {
		return fmt.Errorf("%s is not active", i.of(v))
	}
	return nil
}

// running asks each time; an instance that is not known does not run.
func (i instances) running(ctx context.Context, v *machine) bool {
	out, err := snapctl(ctx, "services", i.of(v))
	return err == nil && slices.ContainsFunc(strings.Split(out, "\n"), func(line string) bool {
		fields := strings.Fields(line)
		return len(fields) > 2 && fields[0] == i.of(v) && fields[2] == "active"
	})
}

// end leaves it to the template's stop protocol.
func (i instances) end(ctx context.Context, v *machine) error {
	_, err := snapctl(ctx, "stop", "--disable", i.of(v))
	return err
}

func (i instances) of(v *machine) string { return i.template + "@" + v.Name }

func snapctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "snapctl", args...) //nolint:gosec // The name of the machine has been checked.
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("snapctl %s: %w: %s", args[0], err, bytes.TrimSpace(stderr.Bytes()))
	}
	return string(out), nil
}
