package main

import (
	"fmt"
	"math"
	"strings"
)

// figure is a line of the table: what it is, what we aim at, and its value for a scene. The value is
// NaN if the scene does not have it.
type figure struct {
	Name, Target string
	of           func(result) float64
	format       string
}

const missing = "–"

func (f figure) text(r result) string {
	value := f.of(r)
	if math.IsNaN(value) {
		return missing
	}
	return fmt.Sprintf(f.format, value)
}

// figures are the lines of the table.
func figures() []figure {
	list := []figure{
		{"all statuses right after creation, s", "≤ 60", of(created, seconds), "%.1f"},
		{"writes per Service", "≤ 6", of(created, perService(writes)), "%.2f"},
		{"reads per Service", "", of(created, perService(reads)), "%.2f"},
		{"CPU, s", "", of(created, cpu), "%.1f"},
		{"resident memory then, MiB", "≤ 150", func(r result) float64 { return mib(r.RSS) }, "%.0f"},
		{"resident memory at its peak, MiB", "", func(r result) float64 { return mib(r.Peak) }, "%.0f"},
		{"restart with nothing changed, s", "≤ 10", of(restarted, seconds), "%.1f"},
		{"writes", "0", of(restarted, writes), "%.0f"},
		{"CPU, s", "", of(restarted, cpu), "%.1f"},
	}
	for _, event := range []string{otherDown, down, up, renumbered, gone} {
		list = append(list,
			figure{event + ": Services concerned", "", of(event, concerned), "%.0f"},
			figure{"their statuses right after, s", "", of(event, seconds), "%.1f"},
			figure{"writes to one status at most", "≤ 1", of(event, statusWrites), "%.0f"},
			figure{"writes", "", of(event, writes), "%.0f"},
			figure{"lists of firewall rules", "", of(event, ruleLists), "%.0f"},
			figure{"CPU, s", "", of(event, cpu), "%.1f"},
		)
	}
	return append(list,
		figure{nsDeleted + ": Services", "", of(nsDeleted, concerned), "%.0f"},
		figure{"gone after, s", "≤ 10", of(nsDeleted, seconds), "%.1f"},
		figure{"requests per Service", "≤ 4", of(nsDeleted, perService(requests)), "%.2f"},
		figure{othersDeleted + ": nothing left after, s", "", of(othersDeleted, seconds), "%.1f"},
		figure{"requests per Service", "≤ 4", of(othersDeleted, perService(requests)), "%.2f"},
	)
}

// of returns the value of a phase.
func of(name string, value func(phase) float64) func(result) float64 {
	return func(r result) float64 {
		p := r.phase(name)
		if p == nil {
			return math.NaN()
		}
		return value(*p)
	}
}

// phase returns a phase by its name; nil if the scene does not have it.
func (r result) phase(name string) *phase {
	for i := range r.Phases {
		if r.Phases[i].Name == name {
			return &r.Phases[i]
		}
	}
	return nil
}

func seconds(p phase) float64      { return p.Seconds }
func cpu(p phase) float64          { return p.CPU.Seconds() }
func concerned(p phase) float64    { return float64(p.Services) }
func writes(p phase) float64       { return float64(p.Writes.total()) }
func reads(p phase) float64        { return float64(p.Reads.total()) }
func requests(p phase) float64     { return writes(p) + reads(p) }
func statusWrites(p phase) float64 { return float64(p.MostStatusWrites) }
func ruleLists(p phase) float64    { return float64(p.Cloud["firewalls.list"]) }

func perService(value func(phase) float64) func(phase) float64 {
	return func(p phase) float64 {
		if p.Services == 0 {
			return math.NaN()
		}
		return value(p) / float64(p.Services)
	}
}

// mib returns KiB in MiB; NaN for nothing, which was not measured then.
func mib(kib int) float64 {
	if kib == 0 {
		return math.NaN()
	}
	return float64(kib) / 1024
}

// table returns the figures of the results, with a header.
func table(results []result) [][]string {
	header := []string{"figure", "target"}
	for _, r := range results {
		header = append(header, r.Scene.String())
	}
	rows := [][]string{header}
	for _, f := range figures() {
		row := []string{f.Name, f.Target}
		for _, r := range results {
			row = append(row, f.text(r))
		}
		rows = append(rows, row)
	}
	return rows
}

// markdown formats rows, of which the first is a header.
func markdown(rows [][]string) string {
	var b strings.Builder
	for i, row := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			b.WriteString(strings.Repeat("| --- ", len(row)) + "|\n")
		}
	}
	return b.String()
}
