package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

func TestItServesUntilItIsStopped(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "sim.yaml")
	if err := os.WriteFile(config, []byte("instances: [{name: n, zone: z-a}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, []string{"--listen", address, "--config", config, "--project", "p"}) }()
	state := stateWithin(t, 20*time.Second, gcesim.AdminClient{BaseURL: "http://" + address})
	if state.NetworkProject != "p" || len(state.Instances) != 1 {
		t.Errorf("state %+v", state)
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// stateWithin polls until the simulator answers.
func stateWithin(t *testing.T, limit time.Duration, admin gcesim.AdminClient) gcesim.Snapshot {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		state, err := admin.State(t.Context())
		if err == nil {
			return state
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestInvalidFlagsAreReported(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "--listen"},
		{"--listen 127.0.0.1:0 extra", "extra"},
		{"--listen 127.0.0.1:0 --edge-vpc vpc", "--edge-internet"},
		{"--listen 127.0.0.1:0 --config /does/not/exist", "/does/not/exist"},
	} {
		err := run(t.Context(), strings.Fields(c.args))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: error %v, want it to mention %s", c.args, err, c.want)
		}
	}
}
