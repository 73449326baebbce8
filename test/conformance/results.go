package main

import (
	"encoding/xml"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// outcome is how a spec ended.
type outcome string

const (
	passed  outcome = "passed"
	failed  outcome = "failed"
	skipped outcome = "skipped"
)

// result is what a run of a spec has shown.
type result struct {
	Spec    string
	Outcome outcome
	Took    time.Duration
	// Message is why it failed or was skipped, in one line.
	Message string `json:",omitempty"`
	// ClientIP is the client's address as a backend saw it, if the spec logs it.
	ClientIP string `json:",omitempty"`
	// Rates are the percentages of successful requests during rolling updates, if the spec logs them.
	Rates []float64 `json:",omitempty"`
}

// prefix is what the names of all specs begin with.
const prefix = "[sig-network] LoadBalancers"

// specsIn returns the names of the specs in the output of --list-tests, which has a line with the
// location and the name for each.
func specsIn(list string) []string {
	var specs []string
	for line := range strings.Lines(list) {
		if _, name, found := strings.Cut(line, ": "+prefix); found {
			specs = append(specs, prefix+strings.TrimRight(name, "\n"))
		}
	}
	return specs
}

// junitReport is the part of a JUnit file that is read.
type junitReport struct {
	Cases []struct {
		Name    string  `xml:"name,attr"`
		Status  string  `xml:"status,attr"`
		Time    float64 `xml:"time,attr"` // seconds
		Failure *struct {
			Text string `xml:",chardata"`
		} `xml:"failure"`
		Skipped *struct {
			Message string `xml:"message,attr"`
		} `xml:"skipped"`
	} `xml:"testsuite>testcase"`
}

// parseResult returns the result of a spec from its JUnit report and its log.
func parseResult(spec string, report, log []byte) (result, error) {
	var parsed junitReport
	if err := xml.Unmarshal(report, &parsed); err != nil {
		return result{}, fmt.Errorf("%s: JUnit report: %w", spec, err)
	}
	for _, c := range parsed.Cases {
		if strings.TrimPrefix(c.Name, "[It] ") != spec {
			continue
		}
		r := result{Spec: spec, Outcome: passed, Took: time.Duration(c.Time * float64(time.Second)).Round(time.Second)}
		switch {
		case c.Failure != nil:
			r.Outcome, r.Message = failed, firstLine(strings.TrimPrefix(c.Failure.Text, "[FAILED] "))
		case c.Skipped != nil:
			r.Outcome, r.Message = skipped, firstLine(c.Skipped.Message)
		case c.Status != string(passed):
			r.Outcome, r.Message = failed, c.Status
		}
		r.ClientIP, r.Rates = clientIPIn(string(log)), ratesIn(string(log))
		return r, nil
	}
	return result{}, fmt.Errorf("%s: it is not in its JUnit report", spec)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return line
}

var (
	clientLine = regexp.MustCompile(`ClientIP detected by target pod using VIP:SvcPort is (\S+)`)
	rateLine   = regexp.MustCompile(`Success rate: ([0-9.]+)%`)
)

func clientIPIn(log string) string {
	match := clientLine.FindStringSubmatch(log)
	if match == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(match[1])
	if err != nil {
		return match[1]
	}
	return host
}

func ratesIn(log string) []float64 {
	var rates []float64
	for _, match := range rateLine.FindAllStringSubmatch(log, -1) {
		if rate, err := strconv.ParseFloat(match[1], 64); err == nil {
			rates = append(rates, rate)
		}
	}
	return rates
}
