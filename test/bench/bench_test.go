package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"
)

func TestEveryPathIsMeasuredAndFilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	var out bytes.Buffer
	if err := run(t.Context(), options{rounds: 1, period: 50 * time.Millisecond, idle: time.Second, connections: 500}, &out); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", &out)
	for _, w := range paths() {
		if !strings.Contains(out.String(), w.name+"  ") {
			t.Errorf("%q is not in the table", w.name)
		}
	}
	for name, want := range map[string]string{
		direct.name: "500", "proxy": "500",
		"proxy, 2 cluster IPs with an endpoint each":                "500",
		"proxy, 4 source addresses that nobody routes to the pod":   "0",
		"proxy, 4 source addresses that the node routes to the pod": "500",
	} {
		_, ceilings, _ := strings.Cut(out.String(), "Simultaneous connections")
		_, row, _ := strings.Cut(ceilings, "\n"+name+"  ")
		if fields := strings.Fields(row); len(fields) == 0 || fields[0] != want {
			t.Errorf("%s: row %q, want %s connections", name, fields, want)
		}
	}
}

func TestMedian(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		want   float64
	}{{[]float64{3, 1, 2}, 2}, {[]float64{4, 1, 3, 2}, 2.5}, {[]float64{7}, 7}} {
		if got := median(tc.values); got != tc.want {
			t.Errorf("median(%v) = %v, want %v", tc.values, got, tc.want)
		}
	}
}
