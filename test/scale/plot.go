package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// panel is a plot of values over sizes, which ascend.
type panel struct {
	Title         string
	Sizes, Values []float64
}

// Sizes of a panel in pixels.
const (
	panelWidth, panelHeight = 300, 200
	margin                  = 36
)

// plot returns an SVG image of panels side by side. Both axes are linear and begin at zero, so that
// linear growth is a straight line.
func plot(xAxis string, panels []panel) string {
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", panelWidth*len(panels), panelHeight)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d,0)">`+"\n", i*panelWidth)
		p.draw(&b, xAxis)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder, xAxis string) {
	const width, height = panelWidth - 2*margin, panelHeight - 2*margin
	text := func(x, y float64, anchor, s string) {
		fmt.Fprintf(b, `<text x="%.0f" y="%.0f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
	}
	text(margin, margin/2, "start", p.Title)
	text(panelWidth-margin, panelHeight-6, "end", xAxis)
	fmt.Fprintf(b, `<path d="M%d %d V%d H%d" fill="none" stroke="black"/>`+"\n", margin, margin, margin+height, margin+width)
	maxSize, maxValue := largest(p.Sizes), largest(p.Values)
	var points []string
	for i, size := range p.Sizes {
		x := margin + size/maxSize*width
		y := margin + height - p.Values[i]/maxValue*height
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3" fill="#0b5fa5"/>`+"\n", x, y)
		text(x-5, y-5, "end", fmt.Sprintf("%.3g", p.Values[i]))
		text(x, margin+height+12, "middle", fmt.Sprintf("%.0f", size))
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" stroke="#0b5fa5"/>`+"\n", strings.Join(points, " "))
}

func largest(values []float64) float64 {
	m := math.SmallestNonzeroFloat64
	for _, v := range values {
		m = max(m, v)
	}
	return m
}

// panelsOf plots the growing figures of the direct scenes with as many nodes as Services.
func panelsOf(results []result) []panel {
	var panels []panel
	for _, f := range growing() {
		p := panel{Title: f.Name}
		for _, r := range results {
			if r.Scene.Proxied == 0 && r.Scene.Direct == r.Scene.Nodes && !math.IsNaN(f.of(r)) {
				p.Sizes, p.Values = append(p.Sizes, float64(r.Scene.Nodes)), append(p.Values, f.of(r))
			}
		}
		if len(p.Sizes) > 1 {
			panels = append(panels, p)
		}
	}
	return panels
}
