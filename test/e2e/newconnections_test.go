//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// newConnections makes new connections to a port of all addresses of some nodes, one after the
// other at each address, until it is stopped.
type newConnections struct {
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	made    int
	outages []outage
}

// outage is a period in which an address of a node took no new connection: from the first attempt
// that failed to the first that succeeded afterwards, or to the end of the test.
type outage struct {
	node, address string
	from, to      time.Time
	errs          []error
}

func startNewConnections(t *testing.T, port int, nodes []cluster.Node, ipv4 func(cluster.Node) string) *newConnections {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c := &newConnections{cancel: cancel}
	for _, node := range nodes {
		for _, address := range addressesOf([]cluster.Node{node}, ipv4) {
			c.running.Go(func() { c.connect(ctx, node.Name, address, port) })
		}
	}
	return c
}

// connect finishes each connection that it begins: stopping ends none.
func (c *newConnections) connect(ctx context.Context, node, address string, port int) {
	var current *outage
	for ctx.Err() == nil {
		began := time.Now()
		err := connectOnce(context.WithoutCancel(ctx), address, port)
		c.mu.Lock()
		c.made++
		c.mu.Unlock()
		if err != nil && current == nil {
			current = &outage{node: node, address: address, from: began}
		}
		if err != nil {
			current.errs = append(current.errs, err)
			time.Sleep(20 * time.Millisecond) // Leave the machine to the proxies that are starting.
		} else if current != nil {
			c.record(current)
			current = nil
		}
	}
	if current != nil {
		c.record(current)
	}
}

func (c *newConnections) record(ended *outage) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ended.to = time.Now()
	c.outages = append(c.outages, *ended)
}

// wantNoneFailed stops the connections and checks that all of them succeeded.
func (c *newConnections) wantNoneFailed(t *testing.T, way string) {
	t.Helper()
	if failed := c.stop(t, way); failed > 0 {
		t.Errorf("%s %d of %d new connections failed", way, failed, c.made)
	}
}

// wantOneLostPerAddress stops the connections and checks that at most one of each address was lost, by a
// time-out. In mode nftables a proxy gets new connections until portmap deletes its rules, and its pod's
// interface follows at once: the connections under way at that moment end, and there is one at each address.
func (c *newConnections) wantOneLostPerAddress(t *testing.T, way string) {
	t.Helper()
	c.stop(t, way)
	lost := map[string]int{}
	for _, o := range c.outages {
		lost[o.address] += len(o.errs)
		for _, err := range o.errs {
			if !isTimeout(err) || lost[o.address] > 1 {
				t.Errorf("%s a new connection to %s failed: %v", way, o.address, err)
			}
		}
	}
}

// wantRefusedOnlyByStartingProxies stops the connections and checks that a node refused new ones
// only while the Service's proxy there was starting, and that none failed otherwise.
func (c *newConnections) wantRefusedOnlyByStartingProxies(t *testing.T, way string, svc *v1.Service) {
	t.Helper()
	c.stop(t, way)
	pods, err := client.CoreV1().Pods(cluster.ProductNamespace).List(t.Context(), ownedBy(svc))
	if err != nil {
		t.Fatal(err)
	}
	const clock = time.Second // Times in a pod's status are in whole seconds.
	for _, o := range c.outages {
		for _, err := range o.errs {
			if !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("%s a new connection to %s was not refused, but failed: %v", way, o.address, err)
			}
		}
		i := slices.IndexFunc(pods.Items, func(pod v1.Pod) bool { return pod.Spec.NodeName == o.node })
		if i < 0 {
			t.Errorf("%s %s refused new connections, and has no proxy", way, o.node)
			continue
		}
		scheduled, ready := trueSince(t, pods.Items[i], v1.PodScheduled), trueSince(t, pods.Items[i], v1.PodReady)
		if o.from.Before(scheduled) || o.to.After(ready.Add(2*clock)) {
			t.Errorf("%s %s refused new connections from %s to %s, its proxy was starting from %s to %s",
				way, o.address, o.from.Format(time.StampMilli), o.to.Format(time.StampMilli), scheduled.Format(time.Stamp), ready.Format(time.Stamp))
		}
	}
	for node, refused := range durations(c.outages) {
		t.Logf("%s %s refused new connections for %.2fs", way, node, refused.Seconds())
	}
}

// stop waits until no connection is under way, and returns how many have failed.
func (c *newConnections) stop(t *testing.T, way string) (failed int) {
	t.Helper()
	c.cancel()
	c.running.Wait()
	byAddress := map[string]int{}
	for _, o := range c.outages {
		failed += len(o.errs)
		byAddress[fmt.Sprintf("%s: %v", o.address, errors.Unwrap(o.errs[0]))] += len(o.errs)
	}
	t.Logf("%s: %d new connections, failed %v", way, c.made, byAddress)
	return failed
}

// durations returns how long each node had an outage at any of its addresses.
func durations(outages []outage) map[string]time.Duration {
	slices.SortFunc(outages, func(a, b outage) int { return a.from.Compare(b.from) })
	total, until := map[string]time.Duration{}, map[string]time.Time{}
	for _, o := range outages {
		if o.from.Before(until[o.node]) {
			o.from = until[o.node] // counted already, at another address
		}
		if o.to.After(o.from) {
			total[o.node] += o.to.Sub(o.from)
			until[o.node] = o.to
		}
	}
	return total
}
