package main

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

const (
	works   = prefix + " [Feature:LoadBalancer] should work [Slow]"
	other   = prefix + " [Feature:LoadBalancer] should do something else"
	rolling = prefix + " ExternalTrafficPolicy: Local [Feature:LoadBalancer] [Slow] should roll"
)

func TestSpecsIn(t *testing.T) {
	list := "The following spec names can be used with 'ginkgo run --focus/skip':\n" +
		"    k8s.io/kubernetes/test/e2e/network/loadbalancer.go:132: " + works + "\n" +
		"    k8s.io/kubernetes/test/e2e/network/dns.go:47: [sig-network] DNS should provide DNS\n" +
		"    k8s.io/kubernetes/test/e2e/network/loadbalancer.go:1016: " + rolling + "\n"
	if got, want := specsIn(list), []string{works, rolling}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestParseResult(t *testing.T) {
	report := func(testcase string) string {
		return `<testsuites><testsuite name="Kubernetes e2e suite">
			<testcase name="[ReportBeforeSuite]" status="passed" time="0.1"></testcase>` + testcase + `</testsuite></testsuites>`
	}
	for _, test := range []struct {
		name, testcase, log string
		want                result
	}{
		{"passed", `<testcase name="[It] ` + works + `" status="passed" time="61.4"></testcase>`, "", result{Outcome: passed, Took: 61 * time.Second}},
		{"failed", `<testcase name="[It] ` + works + `" status="failed" time="2"><failure message="" type="failed">[FAILED] no answer&#10;In [It] at: service.go:4500</failure></testcase>`, "",
			result{Outcome: failed, Took: 2 * time.Second, Message: "no answer"}},
		{"skipped", `<testcase name="[It] ` + works + `" status="skipped" time="0"><skipped message="skipped - needs 2 nodes"></skipped></testcase>`, "",
			result{Outcome: skipped, Message: "skipped - needs 2 nodes"}},
		{"ended in no usual way", `<testcase name="[It] ` + works + `" status="timedout" time="0"></testcase>`, "", result{Outcome: failed, Message: "timedout"}},
		{"figures in the log", `<testcase name="[It] ` + works + `" status="passed" time="0"></testcase>`,
			"ClientIP detected by target pod using VIP:SvcPort is 198.51.100.10:4242\nI1130 Success rate: 99.95%\nI1130 Success rate: 100.00%\n",
			result{Outcome: passed, ClientIP: "198.51.100.10", Rates: []float64{99.95, 100}}},
	} {
		test.want.Spec = works
		got, err := parseResult(works, []byte(report(test.testcase)), []byte(test.log))
		if err != nil || !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: got %+v, %v, want %+v", test.name, got, err, test.want)
		}
	}
	if _, err := parseResult(works, []byte(report("")), nil); err == nil {
		t.Error("a report without the spec: no error")
	}
}

func TestViolations(t *testing.T) {
	except := []exception{{Specs: []string{rolling}, Datapaths: []options.DatapathChoice{options.DatapathDirect}, Outcome: failed, Reason: "nodes"}}
	proxy := setting{cluster.GCE, cluster.IPTables, options.DatapathProxy}
	direct := setting{cluster.GCE, cluster.IPTables, options.DatapathDirect}
	for _, test := range []struct {
		name    string
		setting setting
		result  result
		want    string // part of the only violation; empty: there is none
	}{
		{"passed", proxy, result{Spec: works, Outcome: passed}, ""},
		{"failed", proxy, result{Spec: works, Outcome: failed, Message: "no answer"}, "failed: no answer"},
		{"skipped without being listed", proxy, result{Spec: works, Outcome: skipped, Message: "one node"}, "skipped: one node"},
		{"failed as listed", direct, result{Spec: rolling, Outcome: failed}, ""},
		{"skipped, listed as failed", direct, result{Spec: rolling, Outcome: skipped}, "has it as failed"},
		{"passed although listed", direct, result{Spec: rolling, Outcome: passed}, "it passed"},
		{"failed where it is not listed", proxy, result{Spec: rolling, Outcome: failed}, "failed"},
		{"a rate that upstream accepts", proxy, result{Spec: works, Outcome: passed, Rates: []float64{100, 99.89}}, "99.89 % of the requests during rolling update 2"},
		{"a good rate", proxy, result{Spec: works, Outcome: passed, Rates: []float64{99.9}}, ""},
		{"a hidden client with direct", direct, result{Spec: works, Outcome: passed, ClientIP: "10.142.0.11"}, "saw the client as 10.142.0.11"},
		{"a hidden client with proxies", proxy, result{Spec: works, Outcome: passed, ClientIP: "10.142.0.11"}, ""},
		{"the client's address", direct, result{Spec: works, Outcome: passed, ClientIP: cluster.InternetIP}, ""},
	} {
		got := violations(test.setting, []result{test.result}, except)
		if len(got) > 1 || strings.Join(got, "") != "" && test.want == "" || !strings.Contains(strings.Join(got, ""), test.want) {
			t.Errorf("%s: got %q, want one with %q", test.name, got, test.want)
		}
	}
}

func TestExceptionsAreComplete(t *testing.T) {
	for _, e := range exceptions {
		if len(e.Specs) == 0 || len(e.Datapaths) == 0 || e.Outcome != failed && e.Outcome != skipped || e.Reason == "" {
			t.Errorf("incomplete: %+v", e)
		}
		for _, spec := range e.Specs {
			if !strings.HasPrefix(spec, prefix) {
				t.Errorf("no spec: %q", spec)
			}
		}
		for _, datapath := range e.Datapaths {
			if !slices.ContainsFunc(allSettings(), func(s setting) bool { return s.Datapath == datapath }) {
				t.Errorf("unknown datapath %q", datapath)
			}
		}
	}
}

func TestPage(t *testing.T) {
	except := []exception{{Specs: []string{rolling}, Datapaths: []options.DatapathChoice{options.DatapathDirect}, Outcome: failed, Reason: "Nodes answer for themselves."}}
	date := time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	records := []record{
		{setting{cluster.GCE, cluster.IPTables, options.DatapathProxy}, date, []string{works, rolling, other}, []result{
			{Spec: works, Outcome: passed, ClientIP: "10.142.0.11", Took: time.Minute}, {Spec: rolling, Outcome: passed, Rates: []float64{100, 99.95}},
		}},
		{setting{cluster.GCE, cluster.IPTables, options.DatapathDirect}, date, []string{works, rolling, other}, []result{{Spec: rolling, Outcome: failed}}},
	}
	got := page(records, except)
	for _, want := range []string{
		"| spec | gce iptables proxy | gce iptables direct |",
		"| should work | passed | not run |",
		"| policy Local: should roll | passed, 99.95 % | failed (1) |",
		"| should do something else | not run | not run |",
		"| **passed** | **2 of 3** | **0 of 3** |",
		"| 10.142.0.11 | not run |",
		"(1) Nodes answer for themselves.",
		"| run on | 2026-11-30 | 2026-11-30 |",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the page lacks %q:\n%s", want, got)
		}
	}
}

func TestRecordsAreKept(t *testing.T) {
	folder, s, date := t.TempDir(), allSettings()[0], time.Date(2026, 11, 30, 0, 0, 0, 0, time.UTC)
	if err := os.Mkdir(filepath.Join(folder, s.fileName()), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, results := range [][]result{ // of two runs, the second of a part
		{{Spec: works, Outcome: failed, Message: "x"}, {Spec: rolling, Outcome: passed, Rates: []float64{100}}},
		{{Spec: works, Outcome: passed}},
	} {
		r, err := load(folder, s)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.with(date, []string{works, rolling}, results...).save(folder); err != nil {
			t.Fatal(err)
		}
	}
	got, err := load(folder, s)
	want := record{s, date, []string{works, rolling}, []result{{Spec: works, Outcome: passed}, {Spec: rolling, Outcome: passed, Rates: []float64{100}}}}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
}

func TestParseSettings(t *testing.T) {
	if all, err := parseSettings(nil); err != nil || len(all) != 12 {
		t.Errorf("none named: got %v, %v, want all 12", all, err)
	}
	one, err := parseSettings([]string{"baremetal/nftables/auto"})
	if want := (setting{cluster.BareMetal, cluster.NFTables, options.DatapathAuto}); err != nil || !slices.Equal(one, []setting{want}) {
		t.Errorf("got %v, %v, want %v", one, err, want)
	}
	if _, err := parseSettings([]string{"gce/ipvs/proxy"}); err == nil || !strings.Contains(err.Error(), "gce/iptables/proxy") {
		t.Errorf("unknown: got %v, want the choices", err)
	}
}
