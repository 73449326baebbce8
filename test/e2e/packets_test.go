//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// getTCP asks the web server at address:port for its pod's name, from the
// internet, over a connection of its own.
func getTCP(ctx context.Context, address string, port int) (string, error) {
	return getTCPFrom(ctx, cluster.Internet, address, port)
}

// getTCPFrom asks from a host of the sandbox.
func getTCPFrom(ctx context.Context, host, address string, port int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, target string) (net.Conn, error) {
			return sandbox.Dial(ctx, host, network, target)
		},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:%d/hostname", address, port), nil)
	if err != nil {
		return "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// getUDP does the same over UDP; agnhost answers the message "hostname".
func getUDP(ctx context.Context, address string, port int) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	conn, err := sandbox.Dial(ctx, cluster.Internet, "udp", fmt.Sprintf("%s:%d", address, port))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte("hostname\n")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	n, err := conn.Read(buffer)
	return strings.TrimSpace(string(buffer[:n])), err
}

type getter func(ctx context.Context, address string, port int) (string, error)

// wantOpen waits until a backend answers on every address.
func wantOpen(t *testing.T, get getter, backend string, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		eventually(t, time.Minute, fmt.Sprintf("%s answers on %s port %d", backend, address, port), func(ctx context.Context) error {
			name, err := get(ctx, address, port)
			if err == nil && !strings.HasPrefix(name, backend+"-") {
				err = fmt.Errorf("%q answered", name)
			}
			return err
		})
	}
}

// wantClosed checks that nobody answers on any of the addresses.
func wantClosed(t *testing.T, get getter, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		if err := isClosed(t.Context(), get, address, port); err != nil {
			t.Errorf("%v", err)
		}
	}
}

func isClosed(ctx context.Context, get getter, address string, port int) error {
	name, err := get(ctx, address, port)
	if err == nil {
		return fmt.Errorf("%s port %d should be closed, but %q answers", address, port, name)
	}
	if netErr := net.Error(nil); !errors.As(err, &netErr) {
		return fmt.Errorf("%s port %d: neither closed nor open: %w", address, port, err)
	}
	return nil
}

// externalIPs are the addresses of the nodes as the sandbox starts.
func externalIPs(except ...string) []string {
	var ips []string
	for _, n := range cluster.Nodes(cluster.GCE) {
		if !contains(except, n.Name) {
			ips = append(ips, n.ExternalIP)
		}
	}
	return ips
}
