package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
)

// TestEveryPeerIsMeasuredAndFilled looks at no figure that depends on the machine's speed.
func TestEveryPeerIsMeasuredAndFilled(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to make network namespaces")
	}
	dir := t.TempDir()
	packages, err := debs.Unpack(t.Context(), filepath.Join(dir, "root"), copyingFiles)
	if err != nil {
		t.Fatal(err)
	}
	o := options{rounds: 1, period: 20 * time.Millisecond, connections: 200, ports: []int{2}}
	p, err := measurePeers(t.Context(), o, dir, packages)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", p.markdown())
	if len(p.results) != len(routes) || len(p.holdings) != len(routes) {
		t.Fatalf("%d and %d results for %d routes", len(p.results), len(p.holdings), len(routes))
	}
	for i, r := range p.results {
		for m, text := range metricTexts {
			if !(r.median(metric(m)) > 0) {
				t.Errorf("%s: %s is %v", r.name, text.name, r.median(metric(m)))
			}
		}
		if h := p.holdings[i]; h.name != r.name || h.connections != 200 {
			t.Errorf("%s: held %d connections of 200", h.name, h.connections)
		}
	}
	for i, version := range p.versions {
		if version == "" || strings.ContainsAny(version, " \n") {
			t.Errorf("version %d is %q", i, version)
		}
	}
}

func TestProgramsThatCopyListenOnEveryPort(t *testing.T) {
	p := pod{ports: 3}
	for name, config := range map[string]string{
		"HAProxy": haproxyConfig(p),
		"nginx":   nginxConfig(p, "/root", "/folder"),
	} {
		for port := 2000; port <= 2002; port++ {
			if got := strings.Count(config, fmt.Sprintf("%s:%d", clusterIP, port)); got != 1 {
				t.Errorf("%s: port %d leads %d times to the cluster IP in\n%s", name, port, got, config)
			}
		}
	}
}
