// Package metricstest compares the metrics that a program exposes with their reference page, and checks
// them by Prometheus' linter.
package metricstest

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
)

// page documents all metrics, in tables with the columns name, type, labels and meaning.
const page = "docs/reference/observability.md"

var (
	row  = regexp.MustCompile("(?m)^\\| `([a-z_:]+)` \\| (counter|gauge|histogram|summary) \\| ([^|]*)\\|")
	name = regexp.MustCompile("`(\\w+)`")
)

// Documented checks that the metrics with one of the prefixes, among families, are those of the page, with
// these types and labels, and that their names and descriptions follow Prometheus' conventions.
func Documented(t *testing.T, families []*dto.MetricFamily, prefixes ...string) {
	t.Helper()
	hasPrefix := func(metric string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(metric, p) })
	}
	families = slices.DeleteFunc(slices.Clone(families), func(f *dto.MetricFamily) bool { return !hasPrefix(f.GetName()) })
	exposed := map[string]string{}
	for _, f := range families {
		exposed[f.GetName()] = describe(strings.ToLower(f.GetType().String()), labelsOf(f))
	}
	documented := read(t)
	maps.DeleteFunc(documented, func(metric, _ string) bool { return !hasPrefix(metric) })
	if diff := cmp.Diff(documented, exposed); diff != "" {
		t.Errorf("metrics (-%s +exposed):\n%s", page, diff)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Error(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// read returns the types and labels of the metrics on the page.
func read(t *testing.T) map[string]string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root(t), page))
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for _, r := range row.FindAllStringSubmatch(string(content), -1) {
		labels := map[string]bool{}
		for _, label := range name.FindAllStringSubmatch(r[3], -1) {
			labels[label[1]] = true
		}
		documented[r[1]] = describe(r[2], labels)
	}
	return documented
}

func describe(kind string, labels map[string]bool) string {
	return fmt.Sprintf("%s %v", kind, slices.Sorted(maps.Keys(labels)))
}

func labelsOf(f *dto.MetricFamily) map[string]bool {
	labels := map[string]bool{}
	for _, m := range f.GetMetric() {
		for _, label := range m.GetLabel() {
			labels[label.GetName()] = true
		}
	}
	return labels
}

// root returns the folder of the repository.
func root(t *testing.T) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
	}
	t.Fatalf("no go.mod above %s: %v", dir, err)
	return ""
}
