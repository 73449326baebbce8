// Command conformance runs Kubernetes' own end-to-end tests of load balancers, unmodified, from the
// internet host of the sandbox, in settings of the cluster and of hostport-ccm. It compares what they
// say with exceptions.yaml, the list of the specs that cannot pass, in both directions.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

func main() {
	written := flag.String("settings", "", "what to run: PROFILE/KUBE-PROXY-MODE/DATAPATH, for example gce/iptables/direct; several are separated by spaces; empty: all")
	match := flag.String("match", "", "regular expression: run only specs whose names match")
	out := flag.String("out", "dist/conformance", "folder for JUnit reports, logs and results")
	page := flag.String("page", "", "file for the table of all results in the folder; empty: none is written")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, strings.Fields(*written), *match, *out, *page); err != nil {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, written []string, match, out, page string) error {
	settings, err := parseSettings(written)
	if err != nil {
		return err
	}
	c, err := cluster.Open(os.Stderr)
	if err != nil {
		return err
	}
	var failures []error
	for _, s := range settings {
		results, err := runSetting(ctx, c, s, match, out)
		if err != nil {
			return errors.Join(append(failures, err)...)
		}
		for _, violation := range violations(s, results, exceptions) {
			failures = append(failures, fmt.Errorf("%s: %s", s, violation))
		}
	}
	if page != "" {
		failures = append(failures, writePage(out, page))
	}
	return errors.Join(failures...)
}

// runSetting starts a sandbox for the setting, in place of any other, and runs the specs in it.
func runSetting(ctx context.Context, c *cluster.Cluster, s setting, match, out string) (results []result, err error) {
	shape := cluster.Shape{Profile: s.Profile, KubeProxyMode: s.KubeProxyMode, IPFamily: cluster.IPv4Only}
	if err := c.Down(ctx, false); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.Down(context.WithoutCancel(ctx), false)) }()
	if err := c.Up(ctx, shape); err != nil {
		return nil, err
	}
	r := runner{cluster: c, setting: s, out: out, log: os.Stderr}
	return r.run(ctx, match)
}
