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
	"net/netip"
	"os"
	"os/signal"
	"runtime"
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

// gcPercent makes the garbage collector run often: by default, it begins at 4 MiB. A node runs at least
// one proxy per Service, so their memory adds up, and a proxy without changes allocates little.
const gcPercent = 10

func main() {
	debug.SetGCPercent(gcPercent)
	// More would mean more threads, and to wake them for a sync takes longer than the sync.
	runtime.GOMAXPROCS(1)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// settings are the flags' values.
type settings struct {
	proxy                         nodeproxy.Options
	healthAddress, metricsAddress string
	forwardIPv6, version          bool
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
	if err := serve(proxy, s); err != nil {
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
	fs.StringVar(&s.healthAddress, "health-address", fmt.Sprintf(":%d", config.DefaultHealthPort), "address of /readyz and /healthz; its port must not be one of the Service's")
	fs.StringVar(&s.proxy.HealthToken, "health-token", "", "bearer token that requests for /readyz and /healthz have to bring; if it is empty, everybody is answered")
	fs.StringVar(&s.metricsAddress, "metrics-address", fmt.Sprintf(":%d", config.DefaultMetricsPort), "address of /metrics; its port must not be one of the Service's")
	fs.DurationVar(&s.proxy.SyncPeriod, "sync-period", 2*time.Second, "how often to read the config and verify the rules")
	fs.BoolVar(&s.forwardIPv6, "forward-ipv6", false, "only switch IPv6 forwarding on in the pod, and exit; needs a writable /proc/sys")
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
	var err error
	if s.proxy.HealthPort, err = portOf("--health-address", s.healthAddress, config.DefaultHealthPort); err != nil {
		return s, err
	}
	if s.proxy.MetricsPort, err = portOf("--metrics-address", s.metricsAddress, config.DefaultMetricsPort); err != nil {
		return s, err
	}
	if s.proxy.HealthPort == s.proxy.MetricsPort {
		return s, fmt.Errorf("--health-address and --metrics-address have the same port %d; choose another for one of them", s.proxy.HealthPort)
	}
	return s, nil
}

// portOf returns the port of the address in a flag.
func portOf(flag, address string, example int) (uint16, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return 0, fmt.Errorf("%s %q: %w; write it like :%d", flag, address, err, example)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s %q: the port must be a number from 1 to 65535", flag, address)
	}
	return uint16(n), nil
}

// serve runs the proxy and its endpoints until SIGTERM and the end of the drain
// time. A second signal ends the process immediately.
func serve(proxy *nodeproxy.Proxy, s settings) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop)
	health, err := serveHTTP("--health-address", s.healthAddress, proxy.HealthHandler())
	if err != nil {
		return err
	}
	defer health.Close()
	metrics, err := serveHTTP("--metrics-address", s.metricsAddress, proxy.MetricsHandler())
	if err != nil {
		return err
	}
	defer metrics.Close()
	proxy.Run(ctx)
	return nil
}

// serveHTTP serves the handler at the address in a flag, in the background.
func serveHTTP(flag, address string, handler http.Handler) (*http.Server, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("serving on %s: %w; choose a free port", flag, err)
	}
	const limit = 5 * time.Second
	server := &http.Server{Handler: handler, ReadTimeout: limit, WriteTimeout: limit, IdleTimeout: time.Minute, MaxHeaderBytes: 8 << 10}
	go func() {
		if err := server.Serve(&fairListener{Listener: listener, open: map[netip.Addr]int{}}); !errors.Is(err, http.ErrServerClosed) {
			klog.Background().Error(err, "An endpoint stopped", "flag", flag)
		}
	}()
	return server, nil
}
