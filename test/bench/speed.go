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
	"golang.org/x/sys/unix"
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

var (
	connecting = figure{"new connections", "1/s", 8, connect, 1}
	requesting = figure{"requests on open connections", "1/s", 8, request, 1}
	pushing    = figure{"throughput", "Gbit/s", 2, push, 8e-9}
	figures    = []figure{connecting, requesting, pushing}
)

// rate is how much was done per second, and per second of processor time. The latter has no other
// work of the machine in it. It is that of this process, which is client and backend, and of those that
// copy in pods: the kernel forwards a packet within the time of the process that sent it.
type rate struct{ perSecond, perCPUSecond float64 }

// speed is, for one figure, what each round measured on each path.
type speed struct {
	figure
	rounds []map[netPath]rate
}

// paths returns all paths, in the order of the table.
func paths() []netPath {
	all := []netPath{routed, direct}
	for _, p := range pods {
		all = append(all, p.path())
	}
	return all
}

// measureSpeeds measures every figure on every path in turns, every other time in the opposite order,
// so that other load of the machine affects all of them.
func (l *lab) measureSpeeds(ctx context.Context, rounds int, period time.Duration) ([]speed, error) {
	var all []speed
	order := paths()
	for _, f := range figures {
		s := speed{figure: f}
		for range rounds {
			rates := map[netPath]rate{}
			for _, w := range order {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				measured, err := l.measure(f, w, period)
				if err != nil {
					return nil, fmt.Errorf("measuring %s, %s: %w", f.name, w.name, err)
				}
				rates[w] = measured
			}
			s.rounds = append(s.rounds, rates)
			slices.Reverse(order)
		}
		all = append(all, s)
	}
	return all, nil
}

// of returns the median of a path, per second.
func (s speed) of(w netPath) float64 {
	var rates []float64
	for _, round := range s.rounds {
		rates = append(rates, round[w].perSecond)
	}
	return median(rates)
}

// ratio returns the median, over the rounds, of a path's rate to another's, for the same processor
// time.
func (s speed) ratio(w, to netPath) float64 {
	var ratios []float64
	for _, round := range s.rounds {
		ratios = append(ratios, round[w].perCPUSecond/round[to].perCPUSecond)
	}
	return median(ratios)
}

// measure runs a figure's workers for a period, with empty connection tracking at the start.
func (l *lab) measure(f figure, w netPath, period time.Duration) (rate, error) {
	if err := l.flush(); err != nil {
		return rate{}, err
	}
	var sum atomic.Int64 // of parts per thousand
	var mu sync.Mutex
	var failures []error
	var workers sync.WaitGroup
	before, err := l.processorTime()
	if err != nil {
		return rate{}, err
	}
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
	took := time.Since(began)
	after, err := l.processorTime()
	did := float64(sum.Load()) / 1000 * f.scale
	return rate{did / took.Seconds(), did / (after - before).Seconds()}, errors.Join(append(failures, err)...)
}

// processorTime returns the processor time of this process and of those that copy, since their start.
func (l *lab) processorTime() (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0, err
	}
	sum := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	for _, pid := range l.forwarders {
		used, err := processorTimeOf(pid)
		if err != nil {
			return 0, err
		}
		sum += used
	}
	return sum, nil
}

func (l *lab) flush() error {
	for _, host := range l.hosts {
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

// printSpeeds prints medians, and the ratios to the node's NAT and to the proxy with one port.
func printSpeeds(out io.Writer, speeds []speed) {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(table, "path\t")
	for _, s := range speeds {
		fmt.Fprintf(table, "%s, %s\tof direct\tof one port\t", s.name, s.unit)
	}
	fmt.Fprintln(table)
	for _, w := range paths() {
		fmt.Fprintf(table, "%s\t", w.name)
		for _, s := range speeds {
			fmt.Fprintf(table, "%.4g\t%.2f\t%.2f\t", s.of(w), s.ratio(w, direct), s.ratio(w, onePort.path()))
		}
		fmt.Fprintln(table)
	}
	table.Flush()
}
