package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSummary(t *testing.T) {
	const imports = "package x\nimport \"testing\"\n"
	for _, tt := range []summaryCase{
		{
			name: "passing tests are counted once, subtests instead of their parent",
			source: imports + `func TestA(t *testing.T) { t.Log("quiet") }
				func TestB(t *testing.T) { t.Run("one", func(t *testing.T) {}); t.Run("two", func(t *testing.T) {}) }`,
			total: "3 passed, 0 failed", ok: true,
			shown: []string{"TestA", "TestB/one", "ok"}, hidden: []string{"quiet"},
		},
		{
			name: "a failing subtest is one failure, and its output is shown",
			source: imports + `func TestA(t *testing.T) { t.Run("bad", func(t *testing.T) { t.Error("the cause") }) }
				func TestB(t *testing.T) {}`,
			total: "1 passed, 1 failed",
			shown: []string{"FAIL", "TestA/bad", "the cause", "failed:\n  TestA/bad: x_test.go:3: the cause\n"},
		},
		{
			name:   "a parent that fails by itself counts",
			source: imports + `func TestA(t *testing.T) { t.Run("good", func(t *testing.T) {}); t.Error("the cause") }`,
			total:  "1 passed, 1 failed",
			shown:  []string{"the cause"},
		},
		{
			name:   "a skipped test has its reason, and alone is no success",
			source: imports + `func TestA(t *testing.T) { t.Skip("no root") }`,
			total:  "0 passed, 0 failed, 1 skipped",
			shown:  []string{"SKIP", "no root"},
		},
		{
			name:   "a package that does not build fails",
			source: imports + `func TestA(t *testing.T) { undefinedThing() }`,
			total:  "0 passed, 1 failed",
			shown:  []string{"undefined: undefinedThing"},
		},
		{
			name:   "a panic fails the test in which it happens",
			source: imports + `func TestA(t *testing.T) { panic("out of luck") }`,
			total:  "0 passed, 1 failed",
			shown:  []string{"out of luck"},
		},
		{
			name:   "an exit in the middle fails",
			source: "package x\nimport (\"testing\"; \"os\")\n" + `func TestA(t *testing.T) { os.Exit(3) }`,
			total:  "0 passed, 1 failed",
		},
		{
			name:   "no tests at all is not success",
			source: "package x\n",
			total:  "0 passed, 0 failed",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.check(t)
		})
	}
}

func TestWithoutInputNothingPasses(t *testing.T) {
	var progress, result strings.Builder
	ok, err := summarize(strings.NewReader(""), &progress, &result, false)
	if ok || err != nil || result.String() != "0 passed, 0 failed\n" {
		t.Errorf("summarize of nothing = %t, %v, %q", ok, err, result.String())
	}
}

func TestEventsThatEndInTheMiddleAreNotSuccess(t *testing.T) {
	full := goTest(t, "package x\nimport \"testing\"\nfunc TestA(t *testing.T) {}\nfunc TestB(t *testing.T) {}\n")
	cut := full[:strings.Index(full, `"Test":"TestB"`)]
	cut = cut[:strings.LastIndex(cut, "\n")+1]
	var progress, result strings.Builder
	ok, err := summarize(strings.NewReader(cut), &progress, &result, false)
	if ok || err == nil || !strings.Contains(err.Error(), "is running") {
		t.Errorf("summarize of cut events = %t, %v; want an error", ok, err)
	}
}

// summaryCase is a test file and the expected summary of running it.
type summaryCase struct {
	name, source string
	total        string
	ok           bool
	shown        []string
	hidden       []string
}

func (tt summaryCase) check(t *testing.T) {
	t.Helper()
	var progress, result strings.Builder
	ok, err := summarize(strings.NewReader(goTest(t, tt.source)), &progress, &result, true)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tt.total+"\n", result.String()); diff != "" {
		t.Errorf("total (-want +got):\n%s\nprogress:\n%s", diff, progress.String())
	}
	if ok != tt.ok {
		t.Errorf("ok = %t, want %t", ok, tt.ok)
	}
	for _, want := range tt.shown {
		if !strings.Contains(progress.String(), want) {
			t.Errorf("progress lacks %q:\n%s", want, progress.String())
		}
	}
	for _, unwanted := range tt.hidden {
		if strings.Contains(progress.String(), unwanted) {
			t.Errorf("progress holds %q:\n%s", unwanted, progress.String())
		}
	}
}

// goTest runs the real go command on a module with one test file.
func goTest(t *testing.T, source string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{"go.mod": "module example\n", "x_test.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "test", "-json", "-timeout=30s", "./...")
	cmd.Dir = dir
	// The events contain all that the exit code does.
	out, _ := cmd.CombinedOutput()
	return string(out)
}
