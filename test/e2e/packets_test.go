//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

type getter func(ctx context.Context, address string, port int) (string, error)

// getTCP asks a backend at address:port for its pod's name over TCP, from the internet host.
func getTCP(ctx context.Context, address string, port int) (string, error) {
	return askTCP(ctx, from(cluster.Internet), address, port, askHostname)
}

// getUDP asks over UDP.
func getUDP(ctx context.Context, address string, port int) (string, error) {
	return askUDP(ctx, from(cluster.Internet), address, port, askHostname)
}

// wantOpen waits until a backend answers at every address.
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

// wantClosed checks that there is no answer at any of the addresses.
func wantClosed(t *testing.T, get getter, port int, addresses ...string) {
	t.Helper()
	var all sync.WaitGroup
	for _, address := range addresses {
		all.Go(func() {
			if err := isClosed(t.Context(), get, address, port); err != nil {
				t.Errorf("%v", err)
			}
		})
	}
	all.Wait()
}

// waitClosed waits until there is no answer at any of the addresses: an address leaves the status
// before the firewall closes its ports.
func waitClosed(t *testing.T, get getter, port int, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		eventually(t, time.Minute, fmt.Sprintf("there is no answer on %s port %d", address, port), func(ctx context.Context) error {
			return isClosed(ctx, get, address, port)
		})
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

// dialler opens connections from a host of the sandbox.
type dialler func(ctx context.Context, network, address string) (net.Conn, error)

// Requests to a backend, over TCP and UDP: for its pod's name, and for the address and port of the
// client as the backend sees it.
const (
	askHostname = "hostname"
	askClientIP = "clientip"
)

// attemptTimeout limits a request that may be repeated.
const attemptTimeout = 2 * time.Second

// protocol is a transport protocol with its requests to a backend.
type protocol struct {
	name string
	ask  asker
	// askWithRetries is for tests of who answers, not of how soon.
	askWithRetries asker
}

var protocols = []protocol{{"tcp", askTCP, askTCPWithRetries}, {"udp", askUDP, askUDPWithRetries}}

// getFrom returns a getter that asks a backend for its pod's name from a host of the sandbox.
func (p protocol) getFrom(host string) getter {
	return func(ctx context.Context, address string, port int) (string, error) {
		return p.ask(ctx, from(host), address, port, askHostname)
	}
}

// asker sends a request to a backend at address:port over a new connection and returns the reply.
type asker func(ctx context.Context, dial dialler, address string, port int, question string) (string, error)

func askTCP(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	_, body, err := httpGet(ctx, attemptTimeout, dial, address, port, "/"+question)
	return body, err
}

// askTCPWithRetries gives its only connection time for TCP's retransmissions.
func askTCPWithRetries(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	_, body, err := httpGet(ctx, 15*time.Second, dial, address, port, "/"+question)
	return body, err
}

func askUDP(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	conn, err := dial(ctx, "udp", net.JoinHostPort(address, strconv.Itoa(port)))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte(question + "\n")); err != nil {
		return "", err
	}
	buffer := make([]byte, 1500)
	n, err := conn.Read(buffer)
	return strings.TrimSpace(string(buffer[:n])), err
}

// askUDPWithRetries repeats a request that times out: datagrams may get lost.
func askUDPWithRetries(ctx context.Context, dial dialler, address string, port int, question string) (answer string, err error) {
	for range 3 {
		if answer, err = askUDP(ctx, dial, address, port, question); !isTimeout(err) {
			break
		}
	}
	return answer, err
}

// isTimeout reports whether an error is a time-out.
func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// httpGet makes one request over a new connection. The header is pairs of name and value.
func httpGet(ctx context.Context, timeout time.Duration, dial dialler, address string, port int, path string, header ...string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, strconv.Itoa(port))+path, nil)
	if err != nil {
		return 0, "", err
	}
	for pair := range slices.Chunk(header, 2) {
		req.Header.Set(pair[0], pair[1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// from returns a dialler for a host of the sandbox.
func from(host string) dialler {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return sandbox.Dial(ctx, host, network, address)
	}
}
