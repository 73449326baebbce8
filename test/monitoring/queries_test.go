package monitoring

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// page documents the metrics. Tests of the packages that expose them check that it has all of them, with
// their types and labels.
const page = "../../docs/reference/observability.md"

// targetLabels are those that Prometheus adds to all metrics of a target, by the monitors.
var targetLabels = []string{"instance", "job", "namespace", "pod", "node", "service_namespace", "service_name"}

// metric is a documented metric.
type metric struct {
	histogram bool
	labels    []string
	// row documents it.
	row string
}

// documented returns the metrics of the page by name.
func documented(t *testing.T) map[string]metric {
	t.Helper()
	row, name := regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (counter|gauge|histogram) \\| ([^|]*)\\|.*"), regexp.MustCompile("`(\\w+)`")
	all := map[string]metric{}
	for _, r := range row.FindAllStringSubmatch(read(t, page), -1) {
		m := metric{histogram: r[2] == "histogram", row: r[0]}
		for _, label := range name.FindAllStringSubmatch(r[3], -1) {
			m.labels = append(m.labels, label[1])
		}
		all[r[1]] = m
	}
	return all
}

// find returns the documented metric of a series.
func find(all map[string]metric, series string) (metric, bool) {
	if m, found := all[series]; found {
		return m, !m.histogram
	}
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		if base, cut := strings.CutSuffix(series, suffix); cut && all[base].histogram {
			m := all[base]
			if suffix == "_bucket" {
				m.labels = append(slices.Clone(m.labels), "le")
			}
			return m, true
		}
	}
	return metric{}, false
}

// queryProblems returns what is wrong with a query: syntax, unknown metrics and labels, and values of
// labels that are not documented. used has the names of labels that what shows the result uses.
func queryProblems(t *testing.T, query string, used ...string) (problems []string) {
	t.Helper()
	expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
	if err != nil {
		return []string{err.Error()}
	}
	metrics, events := documented(t), read(t, page)
	known := map[string]bool{}
	for _, label := range targetLabels {
		known[label] = true
	}
	selectors := 0
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		selectors++
		m, found := find(metrics, selector.Name)
		if !found {
			problems = append(problems, "there is no metric "+selector.Name)
			return nil
		}
		for _, label := range m.labels {
			known[label] = true
		}
		for _, matcher := range selector.LabelMatchers {
			if matcher.Name == model.MetricNameLabel || slices.Contains(targetLabels, matcher.Name) {
				continue
			}
			if !slices.Contains(m.labels, matcher.Name) {
				problems = append(problems, fmt.Sprintf("%s has no label %s", selector.Name, matcher.Name))
			}
			for value := range strings.SplitSeq(matcher.Value, "|") {
				if !strings.Contains(m.row, "`"+value+"`") && !(matcher.Name == "reason" && strings.Contains(events, "| Warning | `"+value+"` |")) {
					problems = append(problems, fmt.Sprintf("%s of %s is never %q", matcher.Name, selector.Name, value))
				}
			}
		}
		return nil
	})
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		if aggregation, ok := node.(*parser.AggregateExpr); ok {
			used = append(used, aggregation.Grouping...)
		}
		return nil
	})
	for _, label := range used {
		if !known[label] {
			problems = append(problems, "no metric of the query has the label "+label)
		}
	}
	if selectors == 0 {
		problems = append(problems, "it asks for no metric")
	}
	return problems
}

func TestAlertsUseMetricsThatExist(t *testing.T) {
	label := regexp.MustCompile(`\$labels\.(\w+)`)
	for name, rule := range rules(t) {
		var used []string
		for text := range maps.Values(rule.Annotations) {
			for _, match := range label.FindAllStringSubmatch(text, -1) {
				used = append(used, match[1])
			}
		}
		for _, problem := range queryProblems(t, rule.Expr.StrVal, used...) {
			t.Errorf("%s: %s", name, problem)
		}
	}
}

func TestWrongQueriesAreFound(t *testing.T) {
	for query, want := range map[string]string{
		`hostport_ccm_services{state="pending"`:                           "unexpected",
		`hostport_ccm_service{state="pending"}`:                           "no metric hostport_ccm_service",
		`hostport_ccm_services{status="pending"}`:                         "no label status",
		`hostport_ccm_services{state="waiting"}`:                          `never "waiting"`,
		`hostport_ccm_service_warnings{reason=~"PortConflict|Conflict"}`:  `never "Conflict"`,
		`sum by (status) (hostport_ccm_services)`:                         "label status",
		`hostport_ccm_status_update_duration_seconds`:                     "no metric",
		`hostport_ccm_services_bucket`:                                    "no metric",
		`sum by (le) (hostport_ccm_status_update_duration_seconds_count)`: "label le",
		`1 + 1`: "no metric",
	} {
		if got := queryProblems(t, query); len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
	for _, query := range []string{
		`sum by (le) (rate(hostport_ccm_status_update_duration_seconds_bucket[5m]))`,
		`sum by (service_name) (hostport_nodeproxy_ready{node="n1"})`,
	} {
		if got := queryProblems(t, query); len(got) > 0 {
			t.Errorf("%s: %q", query, got)
		}
	}
}
