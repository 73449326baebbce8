package monitoring

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

const dashboardFile = "../../manifests/monitoring/dashboard.json"

// dashboard is the part of Grafana's schema that the dashboard uses.
type dashboard struct {
	UID           string   `json:"uid"`
	Title         string   `json:"title"`
	Description   string   `json:"description"`
	Tags          []string `json:"tags"`
	SchemaVersion int      `json:"schemaVersion"`
	Editable      bool     `json:"editable"`
	Refresh       string   `json:"refresh"`
	Time          struct {
		From string `json:"from"`
		To   string `json:"to"`
	} `json:"time"`
	Templating struct {
		List []variable `json:"list"`
	} `json:"templating"`
	Panels []panel `json:"panels"`
}

type variable struct {
	Name       string      `json:"name"`
	Label      string      `json:"label"`
	Type       string      `json:"type"`
	Query      string      `json:"query"`
	Datasource *datasource `json:"datasource"`
	Refresh    int         `json:"refresh"`
	Sort       int         `json:"sort"`
	Multi      bool        `json:"multi"`
	IncludeAll bool        `json:"includeAll"`
	AllValue   string      `json:"allValue"`
}

type datasource struct {
	Type string `json:"type"`
	UID  string `json:"uid"`
}

type panel struct {
	ID          int         `json:"id"`
	Type        string      `json:"type"`
	Title       string      `json:"title"`
	Description string      `json:"description"`
	Datasource  *datasource `json:"datasource"`
	GridPos     struct{ X, Y, W, H int }
	FieldConfig struct {
		Defaults struct {
			Unit     string         `json:"unit"`
			Min      *float64       `json:"min"`
			Max      *float64       `json:"max"`
			Decimals *int           `json:"decimals"`
			Custom   map[string]any `json:"custom"`
		} `json:"defaults"`
		Overrides []any `json:"overrides"`
	} `json:"fieldConfig"`
	Options map[string]any `json:"options"`
	Targets []struct {
		RefID        string `json:"refId"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
		Instant      bool   `json:"instant"`
	} `json:"targets"`
	Panels []any `json:"panels"`
}

func loadDashboard(t *testing.T) dashboard {
	t.Helper()
	var d dashboard
	decoder := json.NewDecoder(bytes.NewReader([]byte(read(t, dashboardFile))))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

// units are those of Grafana that are used.
var units = map[string]bool{"short": true, "s": true, "bytes": true, "Bps": true, "ops": true, "reqps": true, "percentunit": true, "cps": true, "bool_yes_no": true}

func TestPanelsExplainWhatTheyShow(t *testing.T) {
	d := loadDashboard(t)
	ids := map[int]bool{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.ID == 0 || p.Title == "" {
			t.Errorf("panel %d %q: the id is zero or there twice, or there is no title", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		if !strings.HasSuffix(p.Description, ".") || !units[p.FieldConfig.Defaults.Unit] || len(p.Targets) == 0 {
			t.Errorf("%s: description %q, unit %q, %d queries", p.Title, p.Description, p.FieldConfig.Defaults.Unit, len(p.Targets))
		}
		if p.Datasource == nil || *p.Datasource != (datasource{"prometheus", "${datasource}"}) {
			t.Errorf("%s: data source %v", p.Title, p.Datasource)
		}
	}
}

func TestPanelsDoNotOverlap(t *testing.T) {
	taken := map[[2]int]string{}
	for _, p := range loadDashboard(t).Panels {
		g := p.GridPos
		if g.W < 1 || g.H < 1 || g.X+g.W > 24 {
			t.Errorf("%s: position %+v", p.Title, g)
		}
		for x := g.X; x < g.X+g.W; x++ {
			for y := g.Y; y < g.Y+g.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s is at the same place as %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
}

func TestPanelsUseMetricsThatExist(t *testing.T) {
	d := loadDashboard(t)
	variables := map[string]bool{"datasource": true, "__rate_interval": true}
	for _, v := range d.Templating.List {
		variables[v.Name] = true
	}
	name, legend := regexp.MustCompile(`\$\{?(\w+)`), regexp.MustCompile(`\{\{(\w+)\}\}`)
	for _, p := range d.Panels {
		for _, target := range p.Targets {
			for _, match := range name.FindAllStringSubmatch(target.Expr, -1) {
				if !variables[match[1]] {
					t.Errorf("%s: there is no variable %s", p.Title, match[1])
				}
			}
			var used []string
			for _, match := range legend.FindAllStringSubmatch(target.LegendFormat, -1) {
				used = append(used, match[1])
			}
			for _, problem := range queryProblems(t, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m"), used...) {
				t.Errorf("%s: %s: %s", p.Title, target.Expr, problem)
			}
		}
	}
}

// A variable with values has them of a metric's label.
func TestVariablesUseMetricsThatExist(t *testing.T) {
	query := regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
	for _, v := range loadDashboard(t).Templating.List {
		if v.Type == "datasource" {
			continue
		}
		match := query.FindStringSubmatch(v.Query)
		if match == nil {
			t.Errorf("variable %s: query %q", v.Name, v.Query)
			continue
		}
		for _, problem := range queryProblems(t, match[1], match[2]) {
			t.Errorf("variable %s: %s", v.Name, problem)
		}
	}
}

// Whoever edits the dashboard in Grafana exports values that mean something in that Grafana only.
func TestTheDashboardIsOfNoCertainGrafana(t *testing.T) {
	text := read(t, dashboardFile)
	for _, part := range []string{"__inputs", `"version"`, `"iteration"`, `"gnetId"`, "pluginVersion"} {
		if strings.Contains(text, part) {
			t.Errorf("it has %s", part)
		}
	}
	if lines := strings.Count(text, "\n"); lines > 400 {
		t.Errorf("it has %d lines, want at most 400", lines)
	}
}
