package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// sizes are those of the direct scenes that are measured by default.
var sizes = [][2]float64{{125, 125}, {250, 250}, {1000, 250}, {500, 500}, {250, 1000}, {1000, 1000}}

func TestFitFindsAModelThatExplainsExactValues(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want costs
		for i, largest := range (costs{100, 1, 1, 0.01}) {
			if rapid.Bool().Draw(t, "used") {
				want[i] = rapid.Float64Range(largest/100, largest).Draw(t, "share")
			}
		}
		var samples []sample
		for _, s := range sizes {
			samples = append(samples, sample{s[0], s[1], want.at(s[0], s[1])})
		}
		got, ok := fit(samples)
		if want == (costs{}) {
			if ok {
				t.Fatalf("a costs %v of values that are all zero", got)
			}
			return
		}
		for _, s := range samples {
			if !ok || math.Abs(got.at(s.Services, s.Nodes)/s.Value-1) > 0.05 {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		for _, share := range got {
			if share < 0 {
				t.Fatalf("a negative share: %v", got)
			}
		}
	})
}

func TestFitNeedsMoreSamplesThanTerms(t *testing.T) {
	if got, ok := fit([]sample{{100, 100, 5}}); ok {
		t.Errorf("%v of one sample", got)
	}
	if got, ok := fit(nil); ok {
		t.Errorf("%v of no sample", got)
	}
}

func TestModelsArePrinted(t *testing.T) {
	if got, want := (costs{1.5, 0.25, 0, 0.001}).String(), "1.5 + 0.25 per Service + 0.001 per Service and node"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func measured(services, nodes int) result {
	n := float64(services)
	return result{Scene: scene{Direct: services, Nodes: nodes}, RSS: 50 << 10, Peak: 100 << 10, Phases: []phase{
		{Name: created, Seconds: n / 10, Services: services, Writes: counts{"create services": 5 * services}, DirectWrites: 5 * services, CPU: time.Duration(services) * time.Millisecond},
		{Name: restarted, Seconds: 2},
		{Name: down, Seconds: 3, Services: services, Writes: counts{"patch services/status": services}, MostStatusWrites: 1},
		{Name: gone, Seconds: 3, Services: services, MostStatusWrites: 2, Cloud: counts{"firewalls.list": 2}},
		{Name: nsDeleted, Seconds: 4, Services: services, Writes: counts{"delete services": 2 * services}},
	}}
}

func TestTablesHaveAColumnForEachScene(t *testing.T) {
	results := []result{measured(100, 100), measured(200, 200), measured(400, 100), measured(100, 400)}
	text := markdown(table(results))
	for _, line := range []string{
		"| writes per Service | ≤ 6 | 5.00 | 5.00 | 5.00 | 5.00 |",
		"| all statuses right after creation, s | ≤ 60 | 10.0 | 20.0 | 40.0 | 10.0 |",
		"| resident memory at its peak, MiB |  | 100 | 100 | 100 | 100 |",
		"| another node NotReady: Services concerned |  | – | – | – | – |",
	} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("no line %q in\n%s", line, text)
		}
	}
	growth := markdown(growthTable(results))
	if want := "| all statuses right after creation, s | 0.1 per Service | 0 % | 1000.0 |"; !strings.Contains(growth, want) {
		t.Errorf("no line %q in\n%s", want, growth)
	}
	if rows := growthTable(nil); rows != nil {
		t.Errorf("growth of nothing: %v", rows)
	}
}

func TestViolationsNameWhatExceedsItsBound(t *testing.T) {
	if got := measured(100, 50).violations(); len(got) > 0 {
		t.Errorf("violations of a good result: %q", got)
	}
	for name, change := range map[string]func(*result){
		"501 writes for direct Services": func(r *result) { r.Phases[0].DirectWrites = 501 },
		"1 patch services/status":        func(r *result) { r.Phases[1].Writes = counts{"patch services/status": 1} },
		"2 writes to one status":         func(r *result) { r.Phases[2].MostStatusWrites = 2 },
		"1 get services":                 func(r *result) { r.Phases[2].Reads = counts{"get services": 1} },
		"321 writes":                     func(r *result) { r.Phases[3].Writes = counts{"patch services/status": 321} },
		"lists of firewall rules":        func(r *result) { r.Phases[3].Cloud = counts{"firewalls.list": 21} },
		"901 get services":               func(r *result) { r.Phases[4].Reads = counts{"get services": 901} },
	} {
		r := measured(100, 50)
		change(&r)
		if got := r.violations(); len(got) != 1 || !strings.Contains(got[0], name) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestPlotsAreXMLWithEveryValue(t *testing.T) {
	panels := panelsOf([]result{measured(100, 100), measured(200, 200), measured(400, 100)})
	image := plot("Services & nodes", panels)
	if circles := strings.Count(image, "<circle"); len(panels) == 0 || circles != 2*len(panels) {
		t.Errorf("%d circles in %d panels", circles, len(panels))
	}
	for decoder := xml.NewDecoder(strings.NewReader(image)); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
