package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/test/hardware"
)

// filled returns a comparison in which every route has the value of each metric that of gives.
func filled(rounds int, of func(r route, ports, round int) float64) comparison {
	one := func(r route, ports int, factor func(round int) float64) result {
		result := result{route: r, ports: ports}
		for round := range rounds {
			var s sample
			for m := range metrics {
				s[m] = of(r, ports, round) * factor(round)
			}
			result.samples = append(result.samples, s)
		}
		return result
	}
	same := func(int) float64 { return 1 }
	var c comparison
	for _, ports := range []int{1, 100} {
		for _, r := range routes {
			c.results = append(c.results, one(r, ports, same))
		}
	}
	c.reference = c.results[0]
	c.again = one(routes[0], 1, func(round int) float64 { return 0.95 + 0.05*float64(round) })
	return c
}

func TestRatiosAreOfTheSameRound(t *testing.T) {
	reference := result{samples: []sample{{requestRate: 10}, {requestRate: 1000}, {requestRate: 20}}}
	half := result{samples: []sample{{requestRate: 5}, {requestRate: 400}, {requestRate: 12}}}
	c := comparison{reference: reference, again: reference, results: []result{reference, half}}
	if diff := cmp.Diff([]float64{0.4, 0.5, 0.6}, half.ratios(requestRate, reference)); diff != "" {
		t.Error(diff)
	}
	if got := c.ratio(half, requestRate); got != 0.5 {
		t.Errorf("ratio %v, want 0.5", got)
	}
	if got := half.median(requestRate); got != 12 {
		t.Errorf("median %v, want 12", got)
	}
}

func TestNoiseIsTheRangeOfTheReferenceToItself(t *testing.T) {
	c := filled(4, func(route, int, int) float64 { return 1 })
	low, high := c.noise(requestRate)
	if math.Abs(low-0.95) > 1e-9 || math.Abs(high-1.1) > 1e-9 {
		t.Errorf("noise %v to %v, want 0.95 to 1.1", low, high)
	}
	for ratio, want := range map[float64]bool{0.94: false, 0.96: true, 1: true, 1.09: true, 1.11: false} {
		if c.isNoise(ratio, requestRate) != want {
			t.Errorf("%v is noise: %t, want %t", ratio, !want, want)
		}
	}
}

func TestAReferenceThatIsAlwaysSlowerTheSecondTimeIsNoise(t *testing.T) {
	c := filled(1, func(route, int, int) float64 { return 1 })
	if _, high := c.noise(requestRate); high != 1 {
		t.Errorf("noise up to %v, want 1", high)
	}
}

func testPage() page {
	return page{
		machine:  hardware.Description{CPU: "Some CPU", Kernel: "6.1.0", Cores: 2, Memory: 8, Load: "0.10", Date: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)},
		options:  options{rounds: 12, period: 500 * time.Millisecond, connections: 80_000},
		versions: [2]string{"2.6.12-1+deb12u4", "1.22.1"},
		comparison: filled(3, func(r route, ports, round int) float64 {
			value := 10_000 * float64(1+round)
			switch r.forwarder {
			case noForwarder:
				return value
			case haproxy:
				return value * 0.4
			}
			return value * 0.8
		}),
		holdings: []holding{{name: "proxy", tried: 80_000, connections: 63_900, kernel: 0.7}, {name: "HAProxy", tried: 9_500, connections: 9_500, program: 3.4, kernel: -0.01}},
	}
}

func TestPageHasEveryFigure(t *testing.T) {
	text := testPage().markdown()
	for _, want := range []string{
		"| kube-proxy, NodePort | 1 | 20,000 (1.00) |",
		"| HAProxy | 100 | 8,000 (**0.40**) |",
		"| noise | 0.95–1.05 |",
		"| direct, hostPort | 1.00–1.00 |",
		"| HAProxy, nginx | 0.40–0.80 |",
		"| proxy | 80,000 | 63,900 |  | 0.7 |",
		"| HAProxy | 9,500 | 9,500 | 3.4 | 0.0 |",
		"1 December 2026: Some CPU, 2 cores, 8 GiB, Linux 6.1.0, load average 0.10",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "%!") {
		t.Errorf("a figure is missing in\n%s", text)
	}
}

func TestPageHasAtMost500WordsBesidesTables(t *testing.T) {
	words := 0
	for line := range strings.Lines(testPage().markdown()) {
		if !strings.HasPrefix(line, "|") {
			words += len(strings.Fields(line))
		}
	}
	if words > 500 {
		t.Errorf("%d words", words)
	}
}

func TestPlotIsXMLWithABarForEachRatio(t *testing.T) {
	c := testPage().comparison
	decoder := xml.NewDecoder(strings.NewReader(plot(c)))
	bars := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
			for _, a := range start.Attr {
				if a.Name.Local == "x" && a.Value == "0" {
					bars++
				}
			}
		}
	}
	if want := len(c.results) * int(metrics); bars != want {
		t.Errorf("%d bars, want %d", bars, want)
	}
}

func TestNumbersHaveThreeDigits(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.1234: "0.123", 12.345: "12.3", 123.4: "123", 1234.5: "1,234", 80000: "80,000", 1234567: "1,234,567"} {
		if got := number(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

func TestPercentile(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	for _, tc := range []struct {
		sorted []time.Duration
		share  float64
		want   time.Duration
	}{{hundred, 0.5, 50}, {hundred, 0.99, 99}, {hundred, 1, 100}, {hundred[:1], 0.5, 1}, {hundred[:2], 0.5, 1}, {hundred[:3], 0.99, 3}, {hundred, 0, 1}} {
		if got := percentile(tc.sorted, tc.share); got != tc.want {
			t.Errorf("%v of %d values: %d, want %d", tc.share, len(tc.sorted), got, tc.want)
		}
	}
}
