// Command bench compares the ways that packets can take to a backend, in network
// namespaces of its own: routed without NAT, by the node's own NAT (what the
// direct datapath is), and through a proxy pod with the real proxy in it. All in
// one run and in turns, so that the ratios mean something on any machine, which
// the absolute figures do not.
//
// It also counts how many connections fit through at a time.
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
	rounds := flag.Int("rounds", 5, "how often to measure each figure; the median counts")
	period := flag.Duration("period", 1500*time.Millisecond, "how long one measurement takes")
	limit := flag.Int("connections", 200_000, "how many connections at a time to try")
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
