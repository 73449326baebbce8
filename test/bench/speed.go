package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
)

// figure is a figure that is measured on each path.
type figure struct {
	name, unit string
	// workers is how many workers run in parallel; each returns how much it did until
	// the deadline.
	workers int
	work    func(dial dialer, deadline time.Time) (float64, error)
	scale   float64
}

type dialer func() (*net.TCPConn, error)

var figures = []figure{
	{"new connections", "1/s", 8, connect, 1},
	{"requests on open connections", "1/s", 8, request, 1},
	{"throughput", "Gbit/s", 2, push, 8e-9},
}

// speed is, for one figure, each path's median per second.
type speed struct {
	figure
	of map[netPath]float64
}

var netPaths = []netPath{routed, direct, proxy}

// measureSpeeds measures every figure on every path in turns, so that other load of the machine
// affects all of them.
func (l *lab) measureSpeeds(ctx context.Context, rounds int, period time.Duration) ([]speed, error) {
	var all []speed
	for _, f := range figures {
		samples := map[netPath][]float64{}
		for range rounds {
			for _, w := range netPaths {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				rate, err := l.measure(f, w, period)
				if err != nil {
					return nil, fmt.Errorf("measuring %s, %s: %w", f.name, w.name, err)
				}
				samples[w] = append(samples[w], rate)
			}
		}
		s := speed{f, map[netPath]float64{}}
		for w, rates := range samples {
			s.of[w] = median(rates)
		}
		all = append(all, s)
	}
	return all, nil
}

// measure runs a figure's workers for a period, with empty connection tracking at the start.
func (l *lab) measure(f figure, w netPath, period time.Duration) (float64, error) {
	if err := l.flush(); err != nil {
		return 0, err
	}
	var sum atomic.Int64 // of parts per thousand
	var mu sync.Mutex
	var failures []error
	var workers sync.WaitGroup
	began := time.Now()
	deadline := began.Add(period)
	for range f.workers {
		workers.Go(func() {
			err := l.on("client", func() error {
				did, err := f.work(func() (*net.TCPConn, error) { return dial(w.address) }, deadline)
				sum.Add(int64(did * 1000))
				return err
			})
			if err != nil {
				mu.Lock()
				defer mu.Unlock()
				failures = append(failures, err)
			}
		})
	}
	workers.Wait()
	return float64(sum.Load()) / 1000 * f.scale / time.Since(began).Seconds(), errors.Join(failures...)
}

func (l *lab) flush() error {
	for _, host := range []string{"node", "pod"} {
		if err := l.on(host, func() error { return netlink.ConntrackTableFlush(netlink.ConntrackTable) }); err != nil {
			return fmt.Errorf("emptying connection tracking of %s: %w", host, err)
		}
	}
	return nil
}

// dial connects from the calling thread's namespace. Closing the connection resets it, so that
// neither ports nor connection tracking run out.
func dial(address string) (*net.TCPConn, error) {
	conn, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	return tcp, tcp.SetLinger(0)
}

// connect opens connections and waits for one byte on each.
func connect(dial dialer, deadline time.Time) (done float64, err error) {
	for ; time.Now().Before(deadline); done++ {
		conn, err := dial()
		if err != nil {
			return done, err
		}
		err = exchange(conn, []byte{askEcho})
		conn.Close()
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// request exchanges single bytes on one connection.
func request(dial dialer, deadline time.Time) (done float64, err error) {
	conn, err := dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	for message := []byte{askEcho}; time.Now().Before(deadline); done++ {
		if err := exchange(conn, message); err != nil {
			return done, err
		}
	}
	return done, nil
}

func exchange(conn net.Conn, message []byte) error {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, len(message)))
	return err
}

// push sends as many bytes as possible.
func push(dial dialer, deadline time.Time) (done float64, err error) {
	conn, err := dial()
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte{askSink}); err != nil {
		return 0, err
	}
	for buffer := make([]byte, 128<<10); time.Now().Before(deadline); {
		n, err := conn.Write(buffer)
		if done += float64(n); err != nil {
			return done, err
		}
	}
	return done, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func printSpeeds(out io.Writer, speeds []speed) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "path\t")
	for _, s := range speeds {
		fmt.Fprintf(table, "%s, %s\tof routed\tof direct\t", s.name, s.unit)
	}
	fmt.Fprintln(table)
	for _, w := range netPaths {
		fmt.Fprintf(table, "%s\t", w.name)
		for _, s := range speeds {
			fmt.Fprintf(table, "%.4g\t%.2f\t%.2f\t", s.of[w], s.of[w]/s.of[routed], s.of[w]/s.of[direct])
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}
