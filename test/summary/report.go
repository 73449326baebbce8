package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// event is a line of `go test -json`. `go doc test2json` and `go help buildjson` describe it.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// unit is a test, or a package if test is empty.
type unit struct{ pkg, test string }

func (u unit) String() string {
	if u.test == "" {
		return u.pkg
	}
	return u.test
}

// report counts tests without subtests, so that one failed assertion is one failure.
type report struct {
	progress io.Writer
	each     bool

	running   map[unit]bool
	hasTests  map[unit]bool // by parent
	hasFailed map[unit]bool // by parent: a failure of a subtest was counted
	output    map[unit][]string
	failures  []string // name and last output line of each counted failure

	passed, failed, skipped int
}

func newReport(progress io.Writer, each bool) *report {
	return &report{
		progress: progress, each: each,
		running: map[unit]bool{}, hasTests: map[unit]bool{}, hasFailed: map[unit]bool{}, output: map[unit][]string{},
	}
}

func (r *report) read(events io.Reader) error {
	lines := bufio.NewReader(events)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			r.line(line)
		}
		if err == io.EOF {
			return r.cutShort()
		}
		if err != nil {
			return fmt.Errorf("reading the test events: %w", err)
		}
	}
}

// cutShort returns an error if a test was running when the events ended.
func (r *report) cutShort() error {
	for u := range r.running {
		return fmt.Errorf("the test events end while %s is running: was go test stopped?", u)
	}
	return nil
}

// line processes one event. It shows a line that is no event, such as an error of the go command,
// as it is.
func (r *report) line(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil {
		fmt.Fprintf(r.progress, "%s", line)
		return
	}
	u := unit{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		fmt.Fprint(r.progress, e.Output)
	case "output":
		r.output[u] = append(r.output[u], e.Output)
	case "start":
		r.running[u] = true
	case "run":
		r.running[u] = true
		r.hasTests[u.parent()] = true
	case "pass", "fail", "skip":
		delete(r.running, u)
		if u.test == "" {
			r.failUnfinished(u.pkg)
		}
		r.ended(u, e.Action, time.Duration(e.Elapsed*float64(time.Second)))
		delete(r.output, u)
	}
}

// parent returns the test that started this one; for a top-level test its package.
func (u unit) parent() unit {
	i := strings.LastIndex(u.test, "/")
	return unit{u.pkg, u.test[:max(i, 0)]}
}

func (r *report) ended(u unit, action string, took time.Duration) {
	switch {
	case action == "fail":
		r.fail(u, took)
	case u.test == "":
		// A package without tests ends with skip.
		if r.hasTests[u] {
			r.show("ok", took, u)
		}
	case r.hasTests[u]:
	case action == "skip":
		r.skipped++
		r.show("SKIP", took, u)
		r.showOutput(u)
	default:
		r.passed++
		if r.each {
			r.show("ok", took, u)
		}
	}
}

// fail counts a failure unless it is only that of a subtest, which was counted.
func (r *report) fail(u unit, took time.Duration) {
	r.show("FAIL", took, u)
	r.showOutput(u)
	if r.hasFailed[u] {
		r.hasFailed[u.parent()] = true
		return
	}
	r.failed++
	r.failures = append(r.failures, fmt.Sprintf("%s: %s", u, r.lastLine(u)))
	if u.test != "" {
		r.hasFailed[u.parent()] = true
	}
}

func (r *report) show(result string, took time.Duration, u unit) {
	fmt.Fprintf(r.progress, "%-4s %7.1fs  %s\n", result, took.Seconds(), u)
}

func (r *report) showOutput(u unit) {
	for _, line := range r.ownOutput(u) {
		fmt.Fprint(r.progress, "        ", line)
	}
}

// ownOutput returns a test's output without the lines of the testing package.
func (r *report) ownOutput(u unit) []string {
	return slices.DeleteFunc(slices.Clone(r.output[u]), func(line string) bool {
		text := strings.TrimSpace(line)
		return strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ")
	})
}

// lastLine returns the last line of a test's output, usually the cause of a failure.
func (r *report) lastLine(u unit) string {
	if lines := r.ownOutput(u); len(lines) > 0 {
		return strings.TrimSpace(lines[len(lines)-1])
	}
	return "no output"
}

// showFailures lists the failures again, for a reader who starts at the end.
func (r *report) showFailures() {
	if len(r.failures) > 0 {
		fmt.Fprintf(r.progress, "failed:\n  %s\n", strings.Join(r.failures, "\n  "))
	}
}

// failUnfinished counts a package's tests that did not end, because of a panic or an exit.
func (r *report) failUnfinished(pkg string) {
	unfinished := slices.SortedFunc(maps.Keys(r.running), func(a, b unit) int { return strings.Compare(a.test, b.test) })
	for _, u := range unfinished {
		if u.pkg != pkg {
			continue
		}
		delete(r.running, u)
		if !r.hasTests[u] {
			r.fail(u, 0)
		}
	}
}

func (r *report) total() string {
	total := fmt.Sprintf("%d passed, %d failed", r.passed, r.failed)
	if r.skipped > 0 {
		total += fmt.Sprintf(", %d skipped", r.skipped)
	}
	return total
}
