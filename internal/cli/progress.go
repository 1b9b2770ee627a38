package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"

	"tenure/client"
)

const (
	// progressAfter is how long something lasts before its progress is shown.
	progressAfter = time.Second
	// progressEvery is how often a line that is shown moves.
	progressEvery = 250 * time.Millisecond
	// usualWidth is that of a terminal which does not tell its own, in columns.
	usualWidth = 80
)

// progress is one line on a terminal that says what goes on, once it has lasted a
// second. Without a terminal it shows nothing.
type progress struct {
	to    io.Writer
	width int

	mu   sync.Mutex
	text string
	// stop ends the goroutine that draws, which then closes gone.
	stop, gone chan struct{}
}

func (a *app) progress(text string) *progress {
	p := &progress{to: a.cfg.Terminal, width: usualWidth, text: text}
	if p.to == nil {
		return p
	}
	if a.cfg.Width != nil {
		if width := a.cfg.Width(); width > 0 {
			p.width = width
		}
	}
	p.stop, p.gone = make(chan struct{}), make(chan struct{})
	go p.draw()
	return p
}

// say changes what is shown.
func (p *progress) say(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text = text
}

// end takes the line away. What is printed after it has the terminal to itself.
func (p *progress) end() {
	if p.to == nil {
		return
	}
	close(p.stop)
	<-p.gone
	p.to = nil
}

func (p *progress) draw() {
	defer close(p.gone)
	begun := time.Now()
	wait := time.NewTimer(progressAfter)
	defer wait.Stop()
	for frame := 0; ; frame++ {
		select {
		case <-p.stop:
			if frame > 0 {
				fmt.Fprint(p.to, "\r\x1b[K") //nolint:errcheck // A terminal that is gone needs no progress.
			}
			return
		case <-wait.C:
		}
		fmt.Fprintf(p.to, "\r\x1b[K%s", p.line(frame, time.Since(begun))) //nolint:errcheck // See above.
		wait.Reset(progressEvery)
	}
}

// line is "- Stop services of "virt" (12s)", cut to fit the terminal.
func (p *progress) line(frame int, lasted time.Duration) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	const frames = `-\|/`
	mark := string(frames[frame%len(frames)])
	tail := fmt.Sprintf(" (%s)", lasted.Round(time.Second))
	return mark + " " + cut(p.text, p.width-len(mark)-len(tail)-2) + tail
}

// cut makes text one line of at most width characters.
func cut(text string, width int) string {
	text = strings.Map(func(r rune) rune {
		if !strconv.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > max(width, 1) {
		return string(runes[:max(width, 1)-1]) + "…"
	}
	return text
}

// howFar is what a task says of its progress: " 30%: web3 moves".
func howFar(t *client.Task) string {
	text := ""
	if t.Progress.Total > 1 {
		text = fmt.Sprintf(" %d%%", 100*t.Progress.Done/t.Progress.Total)
	}
	if t.Progress.Label != "" {
		text += ": " + t.Progress.Label
	}
	return text
}

// doing is what a change does at the moment.
func doing(change *client.Change) string {
	for i := range change.Tasks {
		t := &change.Tasks[i]
		if t.Status != statusDoing && t.Status != "Undoing" && t.Status != "Wait" {
			continue
		}
		text := t.Summary
		if t.Status == "Undoing" {
			text = "Undo: " + text
		}
		text += howFar(t)
		if change.Waiting != "" {
			text += ": waiting for " + change.Waiting
		}
		return text
	}
	return change.Summary
}
