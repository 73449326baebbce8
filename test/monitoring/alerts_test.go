// Package monitoring tests the alerts, the monitors and the dashboard of manifests with Prometheus' own
// code. It is a module of its own, so that the product has none of Prometheus' dependencies.
package monitoring

import (
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	monitoringv1 "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"sigs.k8s.io/yaml"
)

const (
	component = "../../manifests/components/monitoring/"
	runbook   = "../../docs/how-to/alerts.md"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// document decodes a document of a file of the component. An unknown field is an error.
func document[T any](t *testing.T, file string, index int) T {
	t.Helper()
	var object T
	if err := yaml.UnmarshalStrict([]byte(strings.Split(read(t, component+file), "\n---\n")[index]), &object); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return object
}

func alerts(t *testing.T) monitoringv1.PrometheusRuleSpec {
	t.Helper()
	return document[monitoringv1.PrometheusRule](t, "alerts.yaml", 0).Spec
}

// promtool runs Prometheus' tool, without the service discovery of clouds, which takes minutes to compile:
// `go tool` would ignore the tag.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", append([]string{"run", "-tags=remove_all_sd", "github.com/prometheus/prometheus/cmd/promtool"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Promtool compares all annotations, so those that are always the same are left out.
func TestAlertsFireWhenTheyShould(t *testing.T) {
	rules := alerts(t)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			maps.DeleteFunc(rule.Annotations, func(_, text string) bool { return !strings.Contains(text, "{{") })
		}
	}
	data, err := yaml.Marshal(rules)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for file, content := range map[string][]byte{"alerts.yaml": data, "tests.yaml": []byte(read(t, "testdata/alerts.yaml"))} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	promtool(t, "check", "rules", "--lint=all", "--lint-fatal", filepath.Join(dir, "alerts.yaml"))
	promtool(t, "test", "rules", filepath.Join(dir, "tests.yaml"))
}

func TestEachAlertIsTestedToFireAndNotTo(t *testing.T) {
	var file struct {
		Tests []struct {
			Cases []struct {
				Name     string `json:"alertname"`
				Expected []any  `json:"exp_alerts"`
			} `json:"alert_rule_test"`
		} `json:"tests"`
	}
	if err := yaml.Unmarshal([]byte(read(t, "testdata/alerts.yaml")), &file); err != nil {
		t.Fatal(err)
	}
	fires, silent := map[string]bool{}, map[string]bool{}
	for _, test := range file.Tests {
		for _, c := range test.Cases {
			if len(c.Expected) > 0 {
				fires[c.Name] = true
			} else {
				silent[c.Name] = true
			}
		}
	}
	all := rules(t)
	if len(all) == 0 {
		t.Fatal("there are no alerts")
	}
	for name := range all {
		if !fires[name] || !silent[name] {
			t.Errorf("%s: tested to fire: %t, not to fire: %t", name, fires[name], silent[name])
		}
	}
}

// rules returns the alerts by name.
func rules(t *testing.T) map[string]monitoringv1.Rule {
	t.Helper()
	all := map[string]monitoringv1.Rule{}
	for _, group := range alerts(t).Groups {
		for _, rule := range group.Rules {
			all[rule.Alert] = rule
		}
	}
	return all
}

func TestEachAlertHasWhatAPersonNeeds(t *testing.T) {
	page := read(t, runbook)
	var sections []string
	for _, match := range regexp.MustCompile(`(?m)^## (Hostport\w+)$`).FindAllStringSubmatch(page, -1) {
		sections = append(sections, match[1])
	}
	all := rules(t)
	slices.Sort(sections)
	if names := slices.Sorted(maps.Keys(all)); !slices.Equal(names, sections) {
		t.Errorf("the alerts are %v, the sections of %s %v", names, runbook, sections)
	}
	for name, rule := range all {
		if severity := rule.Labels["severity"]; severity != "critical" && severity != "warning" {
			t.Errorf("%s: severity %q", name, severity)
		}
		for _, annotation := range []string{"summary", "description"} {
			if !strings.HasSuffix(rule.Annotations[annotation], ".") {
				t.Errorf("%s: %s %q is no sentence", name, annotation, rule.Annotations[annotation])
			}
		}
		want := "https://github.com/hostport-ccm/hostport-ccm/blob/main/docs/how-to/alerts.md#" + strings.ToLower(name)
		if got := rule.Annotations["runbook_url"]; got != want {
			t.Errorf("%s: the runbook is at %s, want %s", name, got, want)
		}
	}
}

// The page says the same as the rule about how urgent it is, and after which time it fires.
func TestTheRunbookAgreesWithTheRules(t *testing.T) {
	page := read(t, runbook)
	for name, rule := range rules(t) {
		_, section, _ := strings.Cut(page, "## "+name+"\n\n")
		want := "*" + rule.Labels["severity"] + ", after " + string(*rule.For) + "*"
		if first, _, _ := strings.Cut(section, "\n"); !strings.HasPrefix(first, want) {
			t.Errorf("%s: the section begins with %q, want %q", name, first, want)
		}
	}
}
