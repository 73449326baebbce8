// Command bench compares paths of packets to a backend, in its own network namespaces: routed
// without NAT, with the node's NAT (as with datapath direct), and through a proxy pod with the real
// proxy. It measures them in turns in one run, so that the ratios are comparable between machines;
// the absolute figures are not.
//
// It also counts how many simultaneous connections each path allows.
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
	rounds := flag.Int("rounds", 5, "how often to measure each figure; the median is printed")
	period := flag.Duration("period", 1500*time.Millisecond, "how long one measurement takes")
	limit := flag.Int("connections", 200_000, "how many simultaneous connections to try")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *rounds, *period, *limit, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, rounds int, period time.Duration, limit int, out io.Writer) (err error) {
	l, err := newLab()
	defer l.close()
	if err != nil {
		return err
	}
	if err := l.startBackend(); err != nil {
		return err
	}
	proxy, err := l.startProxy(ctx)
	if err != nil {
		return err
	}
	defer proxy.stop()
	speeds, err := l.measureSpeeds(ctx, rounds, period)
	if err != nil {
		return err
	}
	printSpeeds(out, speeds)
	ceilings, err := l.measureCeilings(ctx, proxy, limit)
	printCeilings(out, ceilings, limit)
	return err
}
