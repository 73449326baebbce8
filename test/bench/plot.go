package main

import (
	"fmt"
	"html"
	"strings"
)

// Sizes in the plot, in pixels.
const (
	labelWidth = 170
	panelWidth = 150
	barsWidth  = 100 // the largest ratio of a panel
	rowHeight  = 30
	barHeight  = 11
	top        = 40
)

// barColors are those of few and of many ports.
var barColors = []string{"#0b5fa5", "#8fbfe0"}

// plot returns an SVG image: a panel per metric, side by side, with a row per path, which has a bar
// for each number of ports. Bars are ratios to the reference; a band shows the noise.
func plot(c comparison) string {
	names := c.names()
	height := top + rowHeight*len(names) + 24
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", labelWidth+panelWidth*int(metrics), height)
	b.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	for i, name := range names {
		text(&b, labelWidth-8, float64(top+rowHeight*i+15), "end", name)
	}
	for m := range metrics {
		fmt.Fprintf(&b, `<g transform="translate(%d,0)">`+"\n", labelWidth+panelWidth*int(m))
		c.drawPanel(&b, m, names)
		b.WriteString("</g>\n")
	}
	for i, ports := range c.portCounts() {
		x := labelWidth + i*panelWidth
		fmt.Fprintf(&b, `<rect x="%d" y="%d" width="11" height="11" fill="%s"/>`+"\n", x, height-17, barColors[i%len(barColors)])
		text(&b, float64(x+16), float64(height-8), "start", portsText(ports))
	}
	x := labelWidth + 2*panelWidth
	fmt.Fprintf(&b, `<rect x="%d" y="%d" width="11" height="11" fill="#dddddd"/>`+"\n", x, height-17)
	text(&b, float64(x+16), float64(height-8), "start", "noise around 1, "+c.reference.name+" with "+portsText(c.reference.ports))
	b.WriteString("</svg>\n")
	return b.String()
}

func (c comparison) drawPanel(b *strings.Builder, m metric, names []string) {
	low, high := c.noise(m)
	largest := max(high, 1)
	for _, r := range c.results {
		largest = max(largest, c.ratio(r, m))
	}
	scale := barsWidth / largest
	bottom := rowHeight * len(names)
	better := "more is better"
	if metricTexts[m].lessIsBetter {
		better = "less is better"
	}
	text(b, 0, 14, "start", metricTexts[m].name)
	text(b, 0, 28, "start", better)
	fmt.Fprintf(b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#dddddd"/>`+"\n", low*scale, top, (high-low)*scale, bottom)
	for i, name := range names {
		y := top + rowHeight*i + 3
		for j, ports := range c.portCounts() {
			for _, r := range c.results {
				if r.name != name || r.ports != ports {
					continue
				}
				ratio := c.ratio(r, m)
				fmt.Fprintf(b, `<rect x="0" y="%d" width="%.1f" height="%d" fill="%s"/>`+"\n", y+j*barHeight, ratio*scale, barHeight-1, barColors[j%len(barColors)])
				text(b, ratio*scale+3, float64(y+j*barHeight+9), "start", fmt.Sprintf("%.2f", ratio))
			}
		}
	}
	fmt.Fprintf(b, `<path d="M%.1f %d V%d" stroke="black"/>`+"\n", scale, top, top+bottom)
}

func text(b *strings.Builder, x, y float64, anchor, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s">%s</text>`+"\n", x, y, anchor, html.EscapeString(s))
}
