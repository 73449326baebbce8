//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func TestDatapathUDPFlowsOutliveTheirBackend(t *testing.T) {
	t.Parallel()
	overDatapathsAndFamilies(t, func(t *testing.T, d datapath) {
		ns, port := newNamespace(t), freePort()
		backend := newPod(t, ns, "web", "node1")
		svc := d.newService(t, ns, nil, servicePort(v1.ProtocolUDP, port))
		wantAddresses(t, svc, time.Minute, d.addresses()...)
		wantOpen(t, getUDP, "web", port, d.addresses()...)
		all := newFlows(t, port, d.addresses()...)
		all.wantAnsweredBy(t, backend)

		next := newPod(t, ns, "web", "node2")
		backend.remove(t)
		all.wantAnsweredBy(t, next)
		// For a while there is no backend.
		next.remove(t)
		last := newPod(t, ns, "web", "node3")
		all.wantAnsweredBy(t, last)

		if !d.direct {
			deletePod(t, proxyOn(t, svc, "node1"))
			wantAddresses(t, svc, time.Minute, d.addresses()[1:]...)
			wantAddresses(t, svc, time.Minute, d.addresses()...)
			all.wantAnsweredBy(t, last)
		}
	})
}

// wantAnsweredBy checks that a ready backend soon answers all flows. A flow that a node tracks with
// an old target keeps that target as long as it sends.
func (all flows) wantAnsweredBy(t *testing.T, backend pod) {
	t.Helper()
	const limit = 1200
	before := make([]int, len(all))
	for i, f := range all {
		before[i], _, _ = f.state()
	}
	worst := 0
	eventually(t, 10*time.Minute, backend.name+" answers all flows", func(context.Context) error {
		for i, f := range all {
			sent, answered, answer := f.state()
			if answered > before[i] && answer == backend.name {
				continue
			}
			worst = sent - before[i]
			if worst > limit {
				t.Fatalf("a flow to %s is not answered by %s after %d packets; %q answered %d packets ago", f.address, backend.name, worst, answer, sent-answered)
			}
			return fmt.Errorf("a flow to %s is not, after %d packets", f.address, worst)
		}
		return nil
	})
	t.Logf("%s answered each of %d flows within %d packets", backend.name, len(all), worst+1)
}

// flow sends requests from one source port without a pause.
type flow struct {
	address string
	mu      sync.Mutex
	// sent counts packets; answered is the value of sent at the last answer.
	sent, answered int
	answer         string
}

type flows []*flow

// flowPause is the time between two packets of a flow.
const flowPause = 50 * time.Millisecond

// newFlows starts eight flows to each address.
func newFlows(t *testing.T, port int, addresses ...string) flows {
	t.Helper()
	var all flows
	for _, address := range addresses {
		for range 8 {
			all = append(all, newFlow(t, address, port))
		}
	}
	return all
}

// newFlow starts a flow from the internet host that ends with the test.
func newFlow(t *testing.T, address string, port int) *flow {
	t.Helper()
	conn, err := sandbox.Dial(t.Context(), cluster.Internet, "udp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	f := &flow{address: address}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { f.send(ctx, conn) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
		conn.Close()
	})
	return f
}

// send ignores errors of writing: a packet that was refused makes the next write fail.
func (f *flow) send(ctx context.Context, conn net.Conn) {
	pause := time.NewTicker(flowPause)
	defer pause.Stop()
	buffer := make([]byte, 1500)
	for {
		_, _ = conn.Write([]byte(askHostname))
		_ = conn.SetReadDeadline(time.Now().Add(flowPause))
		n, err := conn.Read(buffer)
		f.record(string(buffer[:n]), err)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

func (f *flow) record(answer string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sent++
	if err == nil {
		f.answered, f.answer = f.sent, strings.TrimSpace(answer)
	}
}

func (f *flow) state() (sent, answered int, answer string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent, f.answered, f.answer
}
