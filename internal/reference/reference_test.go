package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hostport-ccm/hostport-ccm/provider/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

func TestPagesAreUpToDate(t *testing.T) {
	const module = "../.."
	for _, p := range pages {
		want, err := p.render(module)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(module, p.path))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("%s is out of date, run: go run ./internal/reference (-want +got):\n%s", p.path, diff)
		}
	}
}

func TestEveryReservedPortIsListedWithItsReason(t *testing.T) {
	page, err := cloudConfig("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range config.DefaultReservedPorts {
		if line := "\n| `\"" + entry.Ports + "\"` | " + entry.Reason + " |\n"; !strings.Contains(page, line) {
			t.Errorf("the page has no line %q", line)
		}
	}
}

func TestEveryAnnotationIsDescribed(t *testing.T) {
	page, err := annotations("../..")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range options.Known() {
		_, text, found := strings.Cut(page, "## `"+name+"`\n\n")
		if !found || strings.HasPrefix(text, "#") || strings.HasPrefix(text, "\n") {
			t.Errorf("annotation %s has no description", name)
		}
	}
}

func TestLimitsOfTheSchemaAreOfFields(t *testing.T) {
	f, err := parseFile("../..", "provider/config/config.go")
	if err != nil {
		t.Fatal(err)
	}
	fields, err := structFields(f, "CloudConfig", "")
	if err != nil {
		t.Fatal(err)
	}
	for name := range limits {
		if !slices.ContainsFunc(fields, func(e entry) bool { return e.Name == name || e.Name == strings.TrimSuffix(name, "[]") }) {
			t.Errorf("the cloud config has no field %s", name)
		}
	}
}
