package cli

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"tenure/client"
)

// The measures of the image, in pixels.
const (
	svgWidth  = 1200
	svgName   = 260
	svgRow    = 26
	svgBar    = 16
	svgHeader = 40
	svgStory  = 16
)

// picture is an SVG image while it is drawn.
type picture struct {
	strings.Builder

	t         *client.Timeline
	revisions map[string][]string
}

// timelineSVG is t as an image that needs nothing else: no script, no font, no network.
func timelineSVG(t *client.Timeline) string {
	p := &picture{t: t, revisions: revisionsOf(t)}
	story := storyOf(t)
	rows, lines := svgHeader+svgRow*len(t.Units), 0
	for _, e := range story {
		lines += 1 + len(e.more)
	}
	height := rows + 20 + svgStory*(lines+1)
	p.drawf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", svgWidth, height, svgWidth, height)
	p.WriteString("<title>Tenure timeline</title>\n")
	p.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	p.text(svgName, 14, "start", clock(t.Since, t))
	p.text(svgWidth-10, 14, "end", clock(t.Until, t))
	p.changes(rows)
	for i := range t.Units {
		p.row(svgHeader+svgRow*i, &t.Units[i])
	}
	p.story(rows+20, story)
	p.WriteString("</svg>\n")
	return p.String()
}

func (p *picture) drawf(format string, args ...any) {
	_, _ = fmt.Fprintf(p, format, args...) // Builders do not fail.
}

// escape is what a text is in an image: nothing in it is markup.
func escape(text string) string {
	var out strings.Builder
	_ = xml.EscapeText(&out, []byte(plain(text, maxWords))) // Builders do not fail.
	return out.String()
}

func (p *picture) x(at time.Time) float64 {
	whole := p.t.Until.Sub(p.t.Since)
	if whole <= 0 || at.Before(p.t.Since) {
		return svgName
	}
	return svgName + min(float64(at.Sub(p.t.Since))/float64(whole), 1)*(svgWidth-10-svgName)
}

func (p *picture) text(x float64, y int, anchor, text string) {
	p.drawf(`<text x="%.1f" y="%d" text-anchor="%s">%s</text>`+"\n", x, y, anchor, escape(text))
}

// changes are lines from the top to the bottom.
func (p *picture) changes(bottom int) {
	for i := range p.t.Changes {
		c := &p.t.Changes[i]
		x := p.x(c.Spawned)
		p.drawf(`<line x1="%.1f" y1="20" x2="%.1f" y2="%d" stroke="#888" stroke-dasharray="3 3"><title>%s</title></line>`+"\n",
			x, x, bottom, escape("change "+c.ID+": "+c.Summary+", "+c.Status))
		p.text(x, 32, "start", "#"+c.ID)
	}
}

func (p *picture) row(y int, u *client.TimelineUnit) {
	p.text(8, y+svgBar-3, "start", unitLabel(u))
	palette := []string{"#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#0072b2", "#f0e442"}
	for i := range u.Bars {
		bar := &u.Bars[i]
		to := bar.To
		if to.IsZero() {
			to = p.t.Until
		}
		from, width := p.x(bar.From), max(p.x(to)-p.x(bar.From), 1)
		about := barStory(unitLabel(u), bar)
		var title []string
		for _, e := range about {
			title = append(title, e.text)
		}
		stroke := "#444"
		if badly(bar) {
			stroke = "#d00000"
		}
		p.drawf(`<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s" stroke="%s"><title>%s</title></rect>`+"\n",
			from, y, width, svgBar, palette[max(slices.Index(p.revisions[u.Snap], bar.Revision), 0)%len(palette)], stroke, escape(strings.Join(title, "; ")))
		if width > 30 {
			p.text(from+4, y+svgBar-4, "start", bar.Revision)
		}
	}
	for i := range u.Events {
		e := &u.Events[i]
		if e.Kind != "signal" {
			continue
		}
		fill := "#000"
		if e.Signal == "SIGKILL" || e.Signal == "SIGABRT" {
			fill = "#d00000"
		}
		about := eventStory(unitLabel(u), e)
		x, bottom := p.x(e.Time), y+svgBar
		p.drawf(`<path d="M%.1f %d l-4 7 h8 z" fill="%s"><title>%s</title></path>`+"\n",
			x, bottom, fill, escape(about.text+strings.Join(about.more, ";")))
	}
}

func (p *picture) story(y int, story []chapter) {
	for _, e := range story {
		y += svgStory
		p.text(8, y, "start", e.clock(p.t)+"  "+e.text)
		for _, more := range e.more {
			y += svgStory
			p.text(120, y, "start", strings.TrimSpace(more))
		}
	}
}
