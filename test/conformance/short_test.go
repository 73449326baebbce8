//go:build e2e

package main

import (
	"os"
	"testing"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// quickSpecs matches specs that take two minutes together.
const quickSpecs = "source ranges|without NodePort|work for type=LoadBalancer|work from pods"

// The test runs in the sandbox that is running.
func TestUpstreamSpecsPass(t *testing.T) {
	c, err := cluster.Open(os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	if !c.Running() {
		t.Fatal(cluster.ErrNotRunning)
	}
	for _, datapath := range []options.DatapathChoice{options.DatapathProxy, options.DatapathDirect} {
		r := runner{cluster: c, setting: setting{c.Profile(), c.KubeProxyMode(), datapath}, out: t.TempDir(), log: t.Output()}
		results, err := r.run(t.Context(), quickSpecs)
		if err != nil {
			t.Fatal(err)
		}
		for _, violation := range violations(r.setting, results, exceptions) {
			t.Errorf("%s: %s", r.setting, violation)
		}
	}
}
