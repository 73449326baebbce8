//go:build e2e

package main

import (
	"context"
	"testing"
)

// The test starts and stops the machine's sandbox. No sandbox may be running. It counts requests and
// never judges times.
func TestRequestsPerServiceAreBounded(t *testing.T) {
	l, err := start(t.Context(), t.Output(), "")
	t.Cleanup(func() {
		if err := l.close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	// All addresses are verified there, and that deleted Services leave nothing.
	r, err := l.measure(t.Context(), scene{Direct: 85, Proxied: 15, Nodes: 50})
	if err != nil {
		t.Fatal(err)
	}
	for _, violation := range r.violations() {
		t.Error(violation)
	}
}
