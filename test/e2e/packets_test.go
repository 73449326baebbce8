//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// dialler opens connections from some place.
type dialler func(ctx context.Context, network, address string) (net.Conn, error)

// from dials from a host of the sandbox.
func from(host string) dialler {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return sandbox.Dial(ctx, host, network, address)
	}
}

// internetIP is the internet host's own address, in the family of another one.
func internetIP(to string) string {
	if netip.MustParseAddr(to).Is6() {
		return cluster.InternetIPv6
	}
	return cluster.InternetIP
}

// internetIPs are those that it has in the sandbox.
func internetIPs() []string {
	if sandbox.IPFamily() == cluster.DualStack {
		return []string{cluster.InternetIP, cluster.InternetIPv6}
	}
	return []string{cluster.InternetIP}
}

// A backend answers these questions, over TCP and UDP, with its pod's name and
// with the address and port that it sees as the client's.
const (
	whoAreYou = "hostname"
	whoAmI    = "clientip"
)

// shortly is how long an answer may take where it is looked for again.
const shortly = 2 * time.Second

// asker asks the backend at address:port a question, over a connection of its
// own.
type asker func(ctx context.Context, dial dialler, address string, port int, question string) (string, error)

func askTCP(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	_, body, err := httpGet(ctx, shortly, dial, address, port, "/"+question)
	return body, err
}

// askTCPPatiently gives its one connection the time in which TCP sends a packet
// again and again.
func askTCPPatiently(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	_, body, err := httpGet(ctx, 15*time.Second, dial, address, port, "/"+question)
	return body, err
}

func askUDP(ctx context.Context, dial dialler, address string, port int, question string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, shortly)
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

// askUDPPatiently asks again where no answer came in time: datagrams may get lost.
func askUDPPatiently(ctx context.Context, dial dialler, address string, port int, question string) (answer string, err error) {
	for range 3 {
		if answer, err = askUDP(ctx, dial, address, port, question); !isLate(err) {
			break
		}
	}
	return answer, err
}

// isLate says that something took too long, and nothing else is wrong that is
// known.
func isLate(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// protocol is one that a backend can be asked over.
type protocol struct {
	name string
	ask  asker
	// askPatiently is for where it matters who answers, not how soon.
	askPatiently asker
}

var protocols = []protocol{{"tcp", askTCP, askTCPPatiently}, {"udp", askUDP, askUDPPatiently}}

// getFrom asks the backend for its pod's name, from a host of the sandbox.
func (p protocol) getFrom(host string) getter {
	return func(ctx context.Context, address string, port int) (string, error) {
		return p.ask(ctx, from(host), address, port, whoAreYou)
	}
}

// httpGet makes one request over a connection of its own.
func httpGet(ctx context.Context, patience time.Duration, dial dialler, address string, port int, path string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: dial}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(address, strconv.Itoa(port))+path, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(data), err
}

// getTCP asks the backend at address:port for its pod's name, from the internet.
func getTCP(ctx context.Context, address string, port int) (string, error) {
	return askTCP(ctx, from(cluster.Internet), address, port, whoAreYou)
}

// getUDP does the same over UDP.
func getUDP(ctx context.Context, address string, port int) (string, error) {
	return askUDP(ctx, from(cluster.Internet), address, port, whoAreYou)
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
