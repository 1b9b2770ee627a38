package powercut_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"syscall"
	"testing"

	"tenure/test/powercut"
	"tenure/test/rig"
)

// breakAll has the disk refuse something in the middle of different acts that are drawn.
func (p *premiere) breakAll(t *testing.T, seed, troubles uint64) {
	t.Helper()
	random := rand.New(rand.NewPCG(seed, 2)) //nolint:gosec // No secret.
	var commands []int
	for n := range p.acts {
		if a := &p.acts[n]; a.command != nil && !a.staged {
			commands = append(commands, n)
		}
	}
	struck := 0
	for range troubles {
		n := commands[random.IntN(len(commands))]
		a := &p.acts[n]
		trouble := powercut.Trouble{
			After: random.IntN(a.done - a.begun), Times: 1 + 7*random.IntN(2),
			Error: []syscall.Errno{syscall.EIO, syscall.EROFS, syscall.ENOSPC}[random.IntN(3)],
		}
		t.Run(fmt.Sprintf("%s, %s", a.name, trouble), func(t *testing.T) {
			if p.endure(t, n, trouble) {
				struck++
			}
		})
	}
	t.Logf("%d of %d commands were refused something by the disk", struck, troubles)
}

// endure does act n on a disk in trouble: it is done, or it is said that it is not, and nothing of it is
// there; also for a daemon that knows only what is on the disk.
func (p *premiere) endure(t *testing.T, n int, trouble powercut.Trouble) (struck bool) {
	t.Helper()
	a := &p.acts[n]
	d := p.log.Cut(powercut.Cut{Before: a.begun, Landed: powercut.All})
	p.boot(t, d, func(ctx context.Context, i *rig.Instance, _ map[string]string) error {
		s := &stage{Instance: i, t: t, disk: d, files: p.files}
		d.Break(trouble)
		result := i.Try(s.words(a)...)
		struck = d.Mend() > 0
		select {
		case <-i.Ended():
			return fmt.Errorf("the daemon has ended: %s", i.Said()) //nolint:err113 // For a test.
		default:
		}
		first, last := n, n+1
		switch {
		case result.Status == 0:
			first = last
		case !struck:
			return fmt.Errorf("without any trouble: %+v", result) //nolint:err113 // For a test.
		}
		_, err := settled(ctx, i)
		if err == nil {
			// What the disk refuses to remove of a file that was received goes with the next one, or at the next start.
			err = p.becomes(ctx, i, d, first, last, "at var/lib/tenure/staging/upload-")
		}
		if err != nil {
			return fmt.Errorf("%+v: %w", result, err)
		}
		i.Kill()
		i.Start()
		if _, err = settled(ctx, i); err == nil {
			err = p.becomes(ctx, i, d, first, last)
		}
		if err != nil {
			return errors.Join(fmt.Errorf("after a restart of the daemon, %+v", result), err) //nolint:err113 // For a test.
		}
		return nil
	})
	return struck
}
