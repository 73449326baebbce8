// Command hostport-nodeproxy runs in every proxy pod and forwards the ports of
// one Service to its cluster IP. Package nodeproxy does so; this package has the
// flags and handles signals.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/nodeproxy/kernel"
)

// version is set by the linker.
var version = "unknown"

// Exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	// exitUsage means that flags or config are not valid. To start the program
	// again does not help before they are changed.
	exitUsage = 2
)

// memoryLimit makes the garbage collector run more often when the heap comes
// near it. A node runs at least one proxy per Service, so their memory adds up.
// The heap is usually far smaller.
const memoryLimit = 8 << 20

func main() {
	debug.SetMemoryLimit(memoryLimit)
	debug.SetGCPercent(50)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// settings are the flags' values.
type settings struct {
	proxy         nodeproxy.Options
	healthAddress string
	forwardIPv6   bool
	version       bool
}

func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stdout)
	fail := func(code int, err error) int {
		fmt.Fprintln(stderr, "hostport-nodeproxy:", err)
		return code
	}
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		return fail(exitUsage, err)
	case s.version:
		fmt.Fprintln(stdout, "hostport-nodeproxy", version)
		return exitOK
	case s.forwardIPv6:
		// An error is only printed: the proxy, which runs next, can serve IPv4, and
		// reports that it is not ready for IPv6.
		if err := kernel.ForwardIPv6(); err != nil {
			return fail(exitOK, err)
		}
		return exitOK
	}
	proxy, err := nodeproxy.New(s.proxy, kernel.New())
	if err != nil {
		return fail(exitUsage, err)
	}
	if err := serve(proxy, s.healthAddress); err != nil {
		return fail(exitFailure, err)
	}
	return exitOK
}

// parse parses and checks the flags. It writes the help to out if a flag asks
// for it.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	var ipv6 bool
	fs := pflag.NewFlagSet("hostport-nodeproxy", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&s.proxy.ConfigFile, "config-file", config.DefaultFile, "path of the config, in JSON; the file can be replaced at any time")
	fs.StringVar(&s.healthAddress, "health-address", fmt.Sprintf(":%d", config.DefaultHealthPort), "address of /readyz, /healthz and /metrics; its port must not be one of the Service's")
	fs.DurationVar(&s.proxy.SyncPeriod, "sync-period", 2*time.Second, "how often to read the config and verify the rules")
	fs.BoolVar(&s.forwardIPv6, "forward-ipv6", false, "only switch IPv6 forwarding on in the pod, and exit; needs a privileged container")
	fs.BoolVar(&ipv6, "ipv6", true, "forward IPv6 if the config has it; false leaves it to other pods, which can")
	fs.BoolVar(&s.version, "version", false, "print the version and exit")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	fs.AddGoFlag(logging.Lookup("v"))
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	s.proxy.IPv4Only = !ipv6
	if fs.NArg() > 0 {
		return s, fmt.Errorf("unexpected argument %q; everything is set by flags, see --help", fs.Arg(0))
	}
	if s.proxy.SyncPeriod < 100*time.Millisecond {
		return s, fmt.Errorf("--sync-period %s is too short; use 100ms or more", s.proxy.SyncPeriod)
	}
	_, port, err := net.SplitHostPort(s.healthAddress)
	if err != nil {
		return s, fmt.Errorf("--health-address %q: %w; write it like :%d", s.healthAddress, err, config.DefaultHealthPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return s, fmt.Errorf("--health-address %q: the port must be a number from 1 to 65535", s.healthAddress)
	}
	s.proxy.HealthPort = uint16(n)
	return s, nil
}

// serve runs the proxy and its health endpoints until SIGTERM and the end of the
// drain time. A second signal ends the process immediately.
func serve(proxy *nodeproxy.Proxy, address string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("serving health on --health-address: %w; choose a free port", err)
	}
	server := &http.Server{Handler: proxy.Handler(), ReadHeaderTimeout: 5 * time.Second}
	defer server.Close()
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			klog.Background().Error(err, "Health endpoints stopped")
		}
	}()
	proxy.Run(ctx)
	return nil
}
