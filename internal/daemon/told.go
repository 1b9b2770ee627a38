package daemon

import (
	"context"
	"os"
	"os/signal"
)

// Told is how a process hears that it is to end: by signals, each of which ends a context.
type Told struct {
	signals []os.Signal
	end     context.CancelFunc
	// heard are the signals, and over is closed when all of them were heard.
	heard chan os.Signal
	over  chan struct{}
}

// Hear has signals end the context that is returned.
func Hear(ctx context.Context, signals ...os.Signal) (context.Context, *Told) {
	ctx, end := context.WithCancel(ctx)
	t := &Told{signals: signals, end: end}
	t.listen()
	return ctx, t
}

func (t *Told) listen() {
	t.heard, t.over = make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(t.heard, t.signals...)
	go func() {
		defer close(t.over)
		for range t.heard {
			t.end()
		}
	}()
}

// deafen has the process hear no signal any more, but end by it, and returns what has it hear again. Whatever has come before has ended
// the context then: who looks at that, and becomes another program, has missed none. Nil hears nothing.
func (t *Told) deafen() (hear func()) {
	if t == nil {
		return func() {}
	}
	signal.Stop(t.heard) // What has come is in the channel.
	close(t.heard)
	<-t.over
	return t.listen
}
