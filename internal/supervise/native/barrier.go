package native

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"tenure"
)

// afterNotified calls then when all that was said so far has been heard: what a
// process says and then ends is said before its end. If anything is under way it sends
// a word of its own through the socket, behind everything that is in it.
func (u *unit) afterNotified(ctx context.Context, then func(context.Context)) {
	if u.notify == nil || u.notify.silent() {
		then(ctx)
		return
	}
	word, done, dir := rand.Text(), u.notify.done, u.dir()
	address := u.notifyAddress()
	u.barriers[word] = then
	u.s.wg.Go(func() {
		if err := sendBarrier(ctx, address, dir, word); err == nil {
			return
		}
		select {
		case <-done:
		case <-ctx.Done():
			return
		default:
		}
		_ = u.tell(ctx, func(ctx context.Context) { u.passBarrier(ctx, word) })
	})
}

// Hear returns when all that the processes of a unit have said so far has been heard.
func (s *Supervisor) Hear(ctx context.Context, id tenure.UnitID) error {
	_, err := requestKnown(ctx, s, id, func(u *unit, ctx context.Context, reply chan<- struct{}) {
		u.afterNotified(ctx, func(context.Context) { reply <- struct{}{} })
	})
	if err != nil {
		return fmt.Errorf("hear %s: %w", id, err)
	}
	return nil
}

// passBarrier goes on where a word was waited for.
func (u *unit) passBarrier(ctx context.Context, word string) {
	if then, waited := u.barriers[word]; waited {
		delete(u.barriers, word)
		then(ctx)
	}
}

// sendBarrier sends a word to the socket of a unit; it waits while that is full, which it may be for good.
func sendBarrier(ctx context.Context, address, dir, word string) error {
	if !strings.HasPrefix(address, "@") {
		held, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer held.Close() //nolint:errcheck // Only looked at.
		address = fmt.Sprintf("/proc/self/fd/%d/%s", held.Fd(), notifyName)
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetWriteDeadline(time.Unix(1, 0)) })() // It is closed otherwise.
	_, err = conn.Write([]byte(barrierName + "=" + word))
	return errors.Join(err, conn.Close())
}
