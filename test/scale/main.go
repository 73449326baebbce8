// Command scale measures how hostport-ccm copes with many Services and nodes. The API server, etcd,
// the scheduler, Kubernetes' controllers and hostport-ccm are real; kwok simulates the nodes with
// their pods, and package gcesim Compute Engine. It verifies every address, so a figure is only there
// if all were right.
//
// Times depend on the machine. The numbers of requests do not, and a short form of the measurement,
// the test in this package, checks them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
)

// The scenes that are measured by default: all pairs of a few numbers of Services and nodes, so that
// the growth by each is known.
const defaultScenes = "proxies:50x50 proxies:200x50 direct:125x125 direct:250x250 direct:1000x250 direct:500x500 direct:250x1000 direct:1000x1000"

func main() {
	written := flag.String("scenes", defaultScenes, "what to measure: KIND:SERVICESxNODES, where KIND is direct or proxies; several are separated by spaces")
	page := flag.String("page", "", "folder for scale.md and scale.svg; empty: none are written")
	profiles := flag.String("profiles", "", "folder for CPU and heap profiles of hostport-ccm; empty: none are taken")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *written, *page, *profiles); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, written, page, profiles string) (err error) {
	var scenes []scene
	for field := range strings.FieldsSeq(written) {
		s, err := parseScene(field)
		if err != nil {
			return err
		}
		scenes = append(scenes, s)
	}
	l, err := start(ctx, os.Stderr, profiles)
	defer func() { err = errors.Join(err, l.close(ctx)) }()
	if err != nil {
		return err
	}
	var results []result
	for _, s := range scenes {
		r, measureErr := l.measure(ctx, s)
		if len(r.Phases) == 0 {
			return measureErr
		}
		// After an error, what was verified before is shown, but no page written.
		results = append(results, r)
		if err := errors.Join(measureErr, printRows(os.Stdout, table(results))); err != nil {
			return err
		}
	}
	if page != "" {
		if err := writePage(page, results); err != nil {
			return err
		}
	}
	return printRows(os.Stdout, growthTable(results))
}

// printRows prints rows in columns.
func printRows(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}
