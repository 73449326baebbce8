//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// liveConns are open connections with repeated requests on each.
type liveConns []*liveConn

type liveConn struct {
	conn   net.Conn
	reader *bufio.Reader
	// unanswered are the times of the requests that wait for an answer.
	unanswered []time.Time

	mu sync.Mutex
	// answered is the time of the last request that was answered.
	answered time.Time
	end      *ending
}

// ending is how a connection ended: the time of the first request without an answer, and the time
// at which the client knew the end.
type ending struct {
	unanswered, known time.Time
	err               error
}

// lived returns the last time at which the connection is known to have been alive: when the client
// learned of the end, or with a time-out the first request without an answer.
func (e ending) lived() time.Time {
	if isTimeout(e.err) {
		return e.unanswered
	}
	return e.known
}

// sourcePorts counts the source ports that dialFresh has used.
var sourcePorts atomic.Int32

// connectOnce opens a connection and reads an answer. It waits as long as a client that repeats its
// first packet after 1, 3, 7 and 15 seconds.
func connectOnce(ctx context.Context, address string, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 25*time.Second)
	defer cancel()
	conn, err := dialFresh(ctx, address, port)
	if err != nil {
		return err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET /%s HTTP/1.0\r\n\r\n", askHostname); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = fmt.Errorf("%s closed the connection without an answer", address)
	}
	return err
}

// dialFresh connects from the internet host, each time from another source port. A node tracks a
// connection that was not closed properly for up to half a minute. It would take a new connection
// from the same port for that one and send its packets to a proxy that is gone.
func dialFresh(ctx context.Context, address string, port int) (net.Conn, error) {
	const first, last = 1024, 65535
	for {
		dialer := &net.Dialer{LocalAddr: &net.TCPAddr{
			IP: net.ParseIP(internetIP(address)), Port: first + int(sourcePorts.Add(1))%(last-first),
		}}
		conn, err := sandbox.DialWith(ctx, dialer, cluster.Internet, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if !errors.Is(err, syscall.EADDRINUSE) {
			return conn, err
		}
	}
}

const (
	// requestPeriod is the time between two requests on a connection.
	requestPeriod = 500 * time.Millisecond
	// maxUnanswered is how many requests in a row may lack an answer on a live connection. It is
	// high, so that a slow machine does not exceed it.
	maxUnanswered = 20
)

// openLiveConns opens n connections from the internet host and sends requests on each until the
// test ends.
func openLiveConns(t *testing.T, n int, address string, port int) liveConns {
	t.Helper()
	var all liveConns
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := dialFresh(ctx, address, port)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c := &liveConn{conn: conn, reader: bufio.NewReader(conn)}
		go c.sendRequests()
		all = append(all, c)
	}
	all.endings(t, time.Now())
	return all
}

// sendRequests sends requests whether or not they are answered: a client that sends nothing learns
// of no reset.
func (c *liveConn) sendRequests() {
	defer c.conn.Close()
	for {
		now := time.Now()
		c.unanswered = append(c.unanswered, now)
		_, err := io.WriteString(c.conn, "GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n")
		if err == nil {
			err = c.readUntil(now.Add(requestPeriod))
		}
		if err != nil {
			c.recordEnd(err)
			return
		}
	}
}

// readUntil reads answers until the next request is due.
func (c *liveConn) readUntil(due time.Time) error {
	for {
		err := c.readAnswer(due)
		if isTimeout(err) && len(c.unanswered) < maxUnanswered {
			return nil
		}
		if err != nil {
			return err
		}
		c.recordAnswer()
	}
}

// readAnswer reads an answer that begins before the next request is due.
func (c *liveConn) readAnswer(due time.Time) error {
	if err := c.conn.SetReadDeadline(due); err != nil {
		return err
	}
	if _, err := c.reader.Peek(1); err != nil {
		return err
	}
	if err := c.conn.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

func (c *liveConn) recordAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered, c.unanswered = c.unanswered[0], c.unanswered[1:]
}

func (c *liveConn) recordEnd(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	first := append(c.unanswered, now)[0] // now if no request waits
	c.end = &ending{first, now, err}
}

// endings waits until each connection has ended or a request sent after a moment was answered on
// it, and returns how those that ended did so.
func (l liveConns) endings(t *testing.T, moment time.Time) []ending {
	t.Helper()
	var ends []ending
	eventually(t, time.Minute, fmt.Sprintf("%d connections are alive or have ended", len(l)), func(context.Context) error {
		ends = nil
		for _, c := range l {
			end, known := c.stateAfter(moment)
			if !known {
				return errors.New("some neither answered nor ended")
			}
			if end != nil {
				ends = append(ends, *end)
			}
		}
		return nil
	})
	return ends
}

// stateAfter returns how the connection ended, nil if it did not, and reports whether that is
// known: the connection has ended, or a request sent after a moment was answered.
func (c *liveConn) stateAfter(moment time.Time) (end *ending, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end, c.end != nil || c.answered.After(moment)
}

// wantAlive checks that all connections are alive now.
func (l liveConns) wantAlive(t *testing.T) {
	t.Helper()
	if ends := l.endings(t, time.Now()); len(ends) > 0 {
		t.Errorf("%d of %d connections ended: %v", len(ends), len(l), causes(ends))
	}
}

// causes counts the endings by their errors.
func causes(ends []ending) []string {
	count := map[string]int{}
	for _, e := range ends {
		cause := e.err
		for next := errors.Unwrap(cause); next != nil; next = errors.Unwrap(cause) {
			cause = next
		}
		count[cause.Error()]++
	}
	var out []string
	for cause, n := range count {
		out = append(out, fmt.Sprintf("%d %s", n, cause))
	}
	slices.Sort(out)
	return out
}
