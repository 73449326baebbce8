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

// held are connections that live: something is asked on each, again and again.
type held []*heldConn

type heldConn struct {
	mu sync.Mutex
	// answered is when the last request was made that was answered.
	answered time.Time
	end      *ending
}

// ending is how a connection ended: the request that was not answered, and when
// that was known.
type ending struct {
	asked, told time.Time
	err         error
}

// sourcePorts counts those that dialFresh has used.
var sourcePorts atomic.Int32

// dialFresh connects from the internet and from a source port that it has not
// used before. A node may remember for half a minute a connection that did not
// end in good order, and takes one from the same port for the same: it sends its
// packets to a proxy that is gone.
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

// connectOnce opens a connection and reads an answer. It has the patience of a
// client that sends its first packet again and again: after 1, 3, 7 and 15 seconds
// where time-outs double from the first, and new connections are held back for 12.
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
	if _, err := fmt.Fprintf(conn, "GET /%s HTTP/1.0\r\n\r\n", whoAreYou); err != nil {
		return err
	}
	answer, err := io.ReadAll(conn)
	if err == nil && len(answer) == 0 {
		err = fmt.Errorf("%s closed the connection without an answer", address)
	}
	return err
}

// askEvery is the pause between two requests on a connection.
const askEvery = 500 * time.Millisecond

// hold opens n connections from the internet and keeps asking on each, until
// the test ends.
func hold(t *testing.T, n int, address string, port int) held {
	t.Helper()
	var h held
	for range n {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := dialFresh(ctx, address, port)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		c := new(heldConn)
		go c.keepAsking(conn)
		h = append(h, c)
	}
	h.endings(t, time.Now())
	return h
}

func (c *heldConn) keepAsking(conn net.Conn) {
	reader := bufio.NewReader(conn)
	for {
		asked := time.Now()
		err := ask(conn, reader)
		c.note(asked, err)
		if err != nil {
			conn.Close()
			return
		}
		time.Sleep(askEvery)
	}
}

func (c *heldConn) note(asked time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.end = &ending{asked, time.Now(), err}
		return
	}
	c.answered = asked
}

// since returns how the connection ended, nil if it did not, and whether that
// is known: it is not before a request made after a moment was answered.
func (c *heldConn) since(moment time.Time) (end *ending, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end, c.end != nil || c.answered.After(moment)
}

// ask makes a request on a connection. The time for the answer is long, as only
// a connection that is dead may exceed it.
func ask(conn net.Conn, reader *bufio.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return err
	}
	resp, err := http.ReadResponse(reader, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// endings returns how connections ended, after all others were seen alive after
// a moment.
func (h held) endings(t *testing.T, moment time.Time) []ending {
	t.Helper()
	var ends []ending
	eventually(t, time.Minute, fmt.Sprintf("%d connections were seen alive, or have ended", len(h)), func(context.Context) error {
		ends = nil
		for _, c := range h {
			end, known := c.since(moment)
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

// wantAlive checks that all connections are alive now.
func (h held) wantAlive(t *testing.T) {
	t.Helper()
	if ends := h.endings(t, time.Now()); len(ends) > 0 {
		t.Errorf("%d of %d connections ended: %v", len(ends), len(h), causes(ends))
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
