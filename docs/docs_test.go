// Package docs holds no code. Its tests check the pages: links, word limits, the package map, and
// names that must agree with the sources.
package docs

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pages returns the paths of all pages, including those at the top of the repository.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{"../README.md", "../CONTRIBUTING.md", "../CHANGELOG.md", "../SECURITY.md"}
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
)

// anchors returns the anchors that GitHub generates for a page's headings.
func anchors(page string) []string {
	var all []string
	for _, h := range heading.FindAllStringSubmatch(page, -1) {
		all = append(all, anchor(h[1]))
	}
	return all
}

func anchor(title string) string {
	keep := func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return -1
	}
	return strings.Map(keep, strings.ToLower(title))
}

func TestLinksLeadSomewhere(t *testing.T) {
	for _, page := range pages(t) {
		for _, match := range link.FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			file, fragment, _ := strings.Cut(match[1], "#")
			target := page
			if file != "" {
				target = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", page, match[1], err)
				continue
			}
			if fragment != "" && !slices.Contains(anchors(read(t, target)), fragment) {
				t.Errorf("%s links to %s, which has no such heading", page, match[1])
			}
		}
	}
}

func TestEveryPageIsInTheIndex(t *testing.T) {
	index := read(t, "README.md")
	for _, page := range pages(t) {
		if !strings.HasPrefix(page, "../") && page != "README.md" && !strings.Contains(index, "("+page+")") {
			t.Errorf("%s is not in docs/README.md", page)
		}
	}
}

func TestPagesKeepTheirWordLimits(t *testing.T) {
	for page, limit := range map[string]int{"../README.md": 900, "explanation/architecture.md": 1000} {
		if words := len(strings.Fields(read(t, page))); words > limit {
			t.Errorf("%s has %d words, the limit is %d", page, words, limit)
		}
	}
}

func TestArchitectureListsEveryPackage(t *testing.T) {
	page := read(t, "explanation/architecture.md")
	for _, root := range []string{"cmd", "firewall", "internal", "nodeproxy", "provider"} {
		checked := map[string]bool{}
		err := filepath.WalkDir(filepath.Join("..", root), func(path string, _ fs.DirEntry, err error) error {
			dir := filepath.ToSlash(strings.TrimPrefix(filepath.Dir(path), "../"))
			if err != nil || checked[dir] || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			checked[dir] = true
			if !regexp.MustCompile("[`\\s]" + regexp.QuoteMeta(dir) + "[`\\s]").MatchString(page) {
				t.Errorf("architecture.md does not list package %s", dir)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestArchitectureListsOnlyPackages(t *testing.T) {
	const pattern = "(?m)(?:^ *|`)((?:cmd|firewall|internal|nodeproxy|provider)(?:/[\\w-]+)*)(?:`|\\s)"
	packages := mentioned(t, pattern, "explanation/architecture.md")
	if len(packages) == 0 {
		t.Fatal("found none in architecture.md")
	}
	for _, dir := range packages {
		files, err := filepath.Glob(filepath.Join("..", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool { return !strings.HasSuffix(file, "_test.go") }) {
			t.Errorf("architecture.md lists %s, which is no package", dir)
		}
	}
}

// A path may be relative to provider.
func TestGoFilesThatPagesNameExist(t *testing.T) {
	for _, path := range mentioned(t, "`([\\w/]+/\\w+\\.go)`", "explanation/architecture.md", "../CONTRIBUTING.md") {
		_, err := os.Stat(filepath.Join("..", path))
		if _, inProvider := os.Stat(filepath.Join("../provider", path)); err != nil && inProvider != nil {
			t.Errorf("there is no file %s", path)
		}
	}
}

// mentioned returns what the pattern's group finds in the files, sorted.
func mentioned(t *testing.T, pattern string, files ...string) []string {
	t.Helper()
	found := map[string]bool{}
	for _, file := range files {
		for _, match := range regexp.MustCompile(pattern).FindAllStringSubmatch(read(t, file), -1) {
			found[match[1]] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func TestReferenceNamesWhatTheSourcesName(t *testing.T) {
	const observability = "reference/observability.md"
	for _, tt := range []struct {
		name            string
		inSources       []string
		sourcePattern   string
		page, inPattern string
	}{
		{
			name:      "the proxy's metrics",
			inSources: []string{"../nodeproxy/metrics.go"}, sourcePattern: `metric\{"(\w+)"`,
			page: observability, inPattern: "(?m)^\\| `(hostport_nodeproxy_\\w+)`",
		},
		{
			name:      "the events",
			inSources: []string{"../provider/events/events.go", "../provider/nodeaddress/nodeaddress.go", "../provider/publish/fields.go", "../provider/publish/problems.go", "../provider/reachability/report.go", "../provider/saturation/saturation.go"}, sourcePattern: `(?m)^(?:const)?\s+\w+\s+= "([A-Z]\w+)"`,
			page: observability, inPattern: "(?:Normal|Warning)(?: \\|)? `(\\w+)`",
		},
		{
			name:      "the controller manager's metrics",
			inSources: []string{"../internal/gce/metrics.go", "../provider/failover/metrics.go", "../provider/garbage/garbage.go", "../provider/metrics.go", "../provider/reachability/metrics.go", "../provider/saturation/saturation.go", "../provider/view/statustimes.go"},
			// The page has the full names; the sources have them in parts.
			sourcePattern: `(?m)(?:^\s+Name:\s+|BuildFQName\(metricsNamespace, "", )"(\w+)"`,
			page:          observability, inPattern: "(?m)^\\| `hostport_ccm_(?:gce_|failover_|firewall_|reachability_|saturation_)?(\\w+)`",
		},
		{
			name:      "the proxy's flags",
			inSources: []string{"../cmd/hostport-nodeproxy/main.go"}, sourcePattern: `fs\.\w+Var\([^,]+, "([\w-]+)"`,
			page: "reference/flags.md", inPattern: "(?m)^\\| `--(config-file|health-address|health-token|metrics-address|sync-period|forward-ipv6|ipv6|version)`",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := mentioned(t, tt.sourcePattern, tt.inSources...)
			if len(want) == 0 {
				t.Fatalf("found none in %v", tt.inSources)
			}
			if diff := cmp.Diff(want, mentioned(t, tt.inPattern, tt.page)); diff != "" {
				t.Errorf("%s (-sources +page):\n%s", tt.page, diff)
			}
		})
	}
}
