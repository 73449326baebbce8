package options

import "testing"

func TestNearestCorrectsTypingErrors(t *testing.T) {
	known := []string{"addresses", "node-selector", "max-nodes"}
	for mistyped, want := range map[string]string{
		"adresses":     "addresses",
		"nodeselector": "node-selector",
		"maxNodes":     "max-nodes",
		"MAX-NODES":    "max-nodes",
		"max":          "max-nodes",
		"colour":       "",
		"x":            "",
		"":             "",
	} {
		if got := Nearest(mistyped, known); got != want {
			t.Errorf("nearest to %q: got %q, want %q", mistyped, got, want)
		}
	}
}

func TestNearestPrefersTheSmallerDistance(t *testing.T) {
	if got := Nearest("clusterid", []string{"clusterKind", "clusterID"}); got != "clusterID" {
		t.Errorf("got %q", got)
	}
}
