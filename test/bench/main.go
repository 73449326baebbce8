// Command bench compares paths of packets to a backend, in its own network namespaces: routed
// without NAT, with the node's NAT (as with datapath direct), through pods with the real proxy and
// few or many ports and source ranges, and through pods with rules like klipper-lb's. It measures
// them in turns in one run, so that the ratios are comparable between machines; the absolute figures
// are not.
//
// It also measures what a proxy costs without traffic, and how many simultaneous connections each
// path allows.
//
// With -peers it compares the datapaths with kube-proxy's node ports, host ports, and other programs
// that forward in pods instead.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var o options
	flag.IntVar(&o.rounds, "rounds", 15, "how often to measure each figure; the median is printed")
	flag.DurationVar(&o.period, "period", 500*time.Millisecond, "how long one measurement takes")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long to observe proxies without traffic")
	flag.IntVar(&o.connections, "connections", 200_000, "how many simultaneous connections to try; 0 for no try")
	peers := flag.Bool("peers", false, "compare with other ways to reach the backend")
	folder := flag.String("page", "", "with -peers, the folder for peers.md and peers.svg; without, the page is printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	measure := func() error { return run(ctx, o, os.Stdout) }
	if *peers {
		o.ports = []int{1, 100}
		measure = func() error { return comparePeers(ctx, o, os.Stdout, *folder) }
	}
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the flags' values.
type options struct {
	rounds       int
	period, idle time.Duration
	connections  int
	// ports are the numbers of ports of the compared Services.
	ports []int
}

func run(ctx context.Context, o options, out io.Writer) (err error) {
	l, err := newLab("", pods, leastNodeRules(pods))
	defer l.close()
	if err != nil {
		return err
	}
	if err := l.startBackend(); err != nil {
		return err
	}
	binary, err := buildProxy(ctx, l.dir)
	if err != nil {
		return err
	}
	proxies, err := l.startProxies(ctx, binary)
	defer func() {
		for _, p := range proxies {
			p.stop()
		}
	}()
	if err != nil {
		return err
	}
	speeds, err := l.measureSpeeds(ctx, o.rounds, o.period)
	if err != nil {
		return err
	}
	printSpeeds(out, speeds)
	costs, err := measureIdle(ctx, proxies, o.idle)
	if err != nil {
		return err
	}
	printIdle(out, costs)
	if o.connections == 0 {
		return nil
	}
	ceilings, err := l.measureCeilings(ctx, proxies[0], o.connections)
	printCeilings(out, ceilings, o.connections)
	return err
}
