package main

import (
	"math"
	"net"
	"slices"
	"time"
)

// latency measures how long requests take, one at a time over one connection, with empty connection
// tracking at the start.
func (l *lab) latency(w netPath, period time.Duration) (sorted []time.Duration, err error) {
	if err := l.flush(); err != nil {
		return nil, err
	}
	err = l.on("client", func() error {
		conn, err := dial(w.address)
		if err != nil {
			return err
		}
		defer conn.Close()
		sorted, err = timeRequests(conn, time.Now().Add(period))
		return err
	})
	slices.Sort(sorted)
	return sorted, err
}

// timeRequests exchanges single bytes until the deadline. The first exchange is not among the results:
// it may still open the connection to the backend.
func timeRequests(conn net.Conn, deadline time.Time) (all []time.Duration, err error) {
	message := []byte{askEcho}
	if err := exchange(conn, message); err != nil {
		return nil, err
	}
	for began := time.Now(); len(all) == 0 || began.Before(deadline); {
		if err := exchange(conn, message); err != nil {
			return all, err
		}
		ended := time.Now()
		all = append(all, ended.Sub(began))
		began = ended
	}
	return all, nil
}

// percentile returns the least of sorted values that is not less than a share of them.
func percentile(sorted []time.Duration, share float64) time.Duration {
	return sorted[max(int(math.Ceil(share*float64(len(sorted))))-1, 0)]
}
