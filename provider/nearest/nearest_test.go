package nearest

import (
	"testing"

	"pgregory.net/rapid"
)

func TestTo(t *testing.T) {
	known := []string{"addresses", "node-selector", "max-nodes"}
	for word, want := range map[string]string{
		"adresses":     "addresses",
		"nodeselector": "node-selector",
		"maxNodes":     "max-nodes",
		"MAX-NODES":    "max-nodes",
		"colour":       "",
		"":             "",
	} {
		if got, _ := To(word, known); got != want {
			t.Errorf("nearest to %q: got %q, want %q", word, got, want)
		}
	}
}

func TestDistanceIsAMetric(t *testing.T) {
	word := rapid.StringMatching(`[a-d]{0,6}`)
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := word.Draw(t, "a"), word.Draw(t, "b"), word.Draw(t, "c")
		if (distance(a, b) == 0) != (a == b) {
			t.Errorf("distance of %q and %q is %d", a, b, distance(a, b))
		}
		if distance(a, b) != distance(b, a) {
			t.Errorf("distance of %q and %q depends on the order", a, b)
		}
		if distance(a, c) > distance(a, b)+distance(b, c) {
			t.Errorf("from %q to %q is shorter by way of %q", a, c, b)
		}
	})
}
