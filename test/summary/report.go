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

// event is a line of `go test -json`, as `go doc test2json` and `go help
// buildjson` describe it.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// unit is a test, or with an empty test a package.
type unit struct{ pkg, test string }

func (u unit) String() string {
	if u.test == "" {
		return u.pkg
	}
	return u.test
}

// parent is the test that started this one; for a top-level test its package.
func (u unit) parent() unit {
	i := strings.LastIndex(u.test, "/")
	return unit{u.pkg, u.test[:max(i, 0)]}
}

// report counts leaves: tests that started no others, so that one assertion
// that fails is one failure.
type report struct {
	progress io.Writer
	each     bool

	running   map[unit]bool
	hasTests  map[unit]bool // by parent
	hasFailed map[unit]bool // by parent: a failure below it was counted
	output    map[unit][]string
	failures  []string // of each that was counted, its name and its last words

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

// cutShort complains if something was still running at the end.
func (r *report) cutShort() error {
	for u := range r.running {
		return fmt.Errorf("the test events end while %s is running: was go test stopped?", u)
	}
	return nil
}

// line takes one event. What is none, such as a complaint of the go command
// itself, is shown as it is.
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

// fail counts the failure, unless it only tells of one below that was counted.
func (r *report) fail(u unit, took time.Duration) {
	r.show("FAIL", took, u)
	r.showOutput(u)
	if r.hasFailed[u] {
		r.hasFailed[u.parent()] = true
		return
	}
	r.failed++
	r.failures = append(r.failures, fmt.Sprintf("%s: %s", u, r.lastWords(u)))
	if u.test != "" {
		r.hasFailed[u.parent()] = true
	}
}

func (r *report) show(verdict string, took time.Duration, u unit) {
	fmt.Fprintf(r.progress, "%-4s %7.1fs  %s\n", verdict, took.Seconds(), u)
}

func (r *report) showOutput(u unit) {
	for _, line := range r.said(u) {
		fmt.Fprint(r.progress, "        ", line)
	}
}

// said is a test's output without what the testing package says of every test.
func (r *report) said(u unit) []string {
	return slices.DeleteFunc(slices.Clone(r.output[u]), func(line string) bool {
		text := strings.TrimSpace(line)
		return strings.HasPrefix(text, "=== ") || strings.HasPrefix(text, "--- ")
	})
}

// lastWords is the last line of a test's output: what made it give up, where it
// did.
func (r *report) lastWords(u unit) string {
	if said := r.said(u); len(said) > 0 {
		return strings.TrimSpace(said[len(said)-1])
	}
	return "it said nothing"
}

// showFailures says again what failed, for a reader who starts at the end.
func (r *report) showFailures() {
	if len(r.failures) > 0 {
		fmt.Fprintf(r.progress, "failed:\n  %s\n", strings.Join(r.failures, "\n  "))
	}
}

// failUnfinished counts the package's tests that never ended, as after a panic
// or an exit.
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
