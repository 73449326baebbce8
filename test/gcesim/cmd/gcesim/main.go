// Command gcesim runs the simulator of Compute Engine as a process. With the interfaces of its host
// as flags, it enforces the firewall there.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim/edge"
)

type options struct {
	listen  []string
	project string
	config  string
	edge    edge.Config
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, pflag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "gcesim:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	sim, err := o.simulator()
	if err != nil {
		return err
	}
	return serve(ctx, o.listen, sim)
}

func parse(args []string) (options, error) {
	var o options
	flags := pflag.NewFlagSet("gcesim", pflag.ContinueOnError)
	flags.StringArrayVar(&o.listen, "listen", nil, "host:port to serve the Compute API, the metadata server and the admin API on; repeatable")
	flags.StringVar(&o.config, "config", "", "YAML or JSON file with project, network, zones, instances, firewallQuota, operationLatency")
	flags.StringVar(&o.project, "project", "", "project id, over the file's")
	flags.StringVar(&o.edge.Internet, "edge-internet", "", "interface towards the internet; with --edge-vpc: enforce firewall and 1:1 NAT by nftables in this network namespace")
	flags.StringVar(&o.edge.VPC, "edge-vpc", "", "interface towards the VPC")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	switch {
	case flags.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	case len(o.listen) == 0:
		return o, errors.New("nothing to listen on: give --listen host:port")
	case (o.edge.Internet == "") != (o.edge.VPC == ""):
		return o, errors.New("--edge-internet and --edge-vpc go together")
	}
	return o, nil
}

func (o options) simulator() (*gcesim.Sim, error) {
	var config gcesim.Config
	if o.config != "" {
		var err error
		if config, err = gcesim.LoadConfig(o.config); err != nil {
			return nil, err
		}
	}
	if o.project != "" {
		config.Project = o.project
	}
	if o.edge.VPC == "" {
		return gcesim.New(config, nil, nil)
	}
	enforcer, err := edge.NewEnforcer(o.edge)
	if err != nil {
		return nil, err
	}
	return enforced(config, enforcer)
}

// enforced returns an error if the first snapshot cannot be enforced. An error of a later one is
// logged, and the earlier snapshot stays in force.
func enforced(config gcesim.Config, enforcer *edge.Enforcer) (*gcesim.Sim, error) {
	var first error
	starting := true
	sim, err := gcesim.New(config, nil, func(snapshot gcesim.Snapshot) {
		err := enforcer.Apply(snapshot)
		if starting {
			first = err
		} else if err != nil {
			fmt.Fprintln(os.Stderr, "gcesim: the edge is not up to date:", err)
		}
	})
	starting = false
	return sim, errors.Join(err, first)
}

// serve listens on all addresses before it logs that it is ready.
func serve(ctx context.Context, addresses []string, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, len(addresses))
	for _, address := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			return err
		}
		go func() { failed <- server.Serve(listener) }()
	}
	fmt.Fprintln(os.Stderr, "gcesim: ready on", strings.Join(addresses, ", "))
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	return server.Close()
}
