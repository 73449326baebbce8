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
	conn   net.Conn
	reader *bufio.Reader
	// unanswered are when the requests were made that wait for their answers.
	unanswered []time.Time

	mu sync.Mutex
	// answered is when the last request was made that was answered.
	answered time.Time
	end      *ending
}

// ending is how a connection ended: when the first request was made that was not
// answered, and when the end was known.
type ending struct {
	asked, told time.Time
	err         error
}

// lived returns until when the connection is known to have lived: until it was
// told that it ended, or until it fell silent.
func (e ending) lived() time.Time {
	if isLate(e.err) {
		return e.asked
	}
	return e.told
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

// connectOnce opens a connection and reads an answer. It waits as long as a client that repeats its first
// packet after 1, 3, 7 and 15 seconds.
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

const (
	// askEvery is the time between two requests on a connection.
	askEvery = 500 * time.Millisecond
	// unansweredByTheLiving is how many requests in a row may lack an answer. They
	// are many, as only a connection that is dead may exceed it.
	unansweredByTheLiving = 20
)

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
		c := &heldConn{conn: conn, reader: bufio.NewReader(conn)}
		go c.keepAsking()
		h = append(h, c)
	}
	h.endings(t, time.Now())
	return h
}

// keepAsking makes requests, answered or not: a connection on which nothing is
// sent learns of no reset.
func (c *heldConn) keepAsking() {
	defer c.conn.Close()
	for {
		now := time.Now()
		c.unanswered = append(c.unanswered, now)
		_, err := io.WriteString(c.conn, "GET /hostname HTTP/1.1\r\nHost: web\r\n\r\n")
		if err == nil {
			err = c.readUntil(now.Add(askEvery))
		}
		if err != nil {
			c.noteEnd(err)
			return
		}
	}
}

// readUntil reads answers until the next request is due.
func (c *heldConn) readUntil(due time.Time) error {
	for {
		err := c.readAnswer(due)
		if isLate(err) && len(c.unanswered) < unansweredByTheLiving {
			return nil
		}
		if err != nil {
			return err
		}
		c.noteAnswer()
	}
}

// readAnswer reads one that begins before the next request is due.
func (c *heldConn) readAnswer(due time.Time) error {
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

func (c *heldConn) noteAnswer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered, c.unanswered = c.unanswered[0], c.unanswered[1:]
}

func (c *heldConn) noteEnd(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	asked := append(c.unanswered, now)[0] // now if none waits
	c.end = &ending{asked, now, err}
}

// since returns how the connection ended, nil if it did not, and whether that
// is known: it is not before a request made after a moment was answered.
func (c *heldConn) since(moment time.Time) (end *ending, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.end, c.end != nil || c.answered.After(moment)
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
