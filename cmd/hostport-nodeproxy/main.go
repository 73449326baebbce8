// Command hostport-nodeproxy runs in every proxy pod and forwards the ports of
// one Service to its cluster IP. See package nodeproxy for what it does; here
// are only its flags and its end.
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
	// exitUsage tells that flags or config are wrong: another try is no use
	// before somebody has changed them.
	exitUsage = 2
)

// memoryGoal makes the garbage collector work harder as the heap comes near it.
// A node runs one proxy per Service, so what one of them takes counts; in quiet
// times the heap is far below.
const memoryGoal = 8 << 20

func main() {
	debug.SetMemoryLimit(memoryGoal)
	debug.SetGCPercent(50)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// settings are the flags' values.
type settings struct {
	proxy         nodeproxy.Options
	healthAddress string
	forwardIPv6   bool
	ipv6          bool
	version       bool
}

func run(args []string, stdout, stderr io.Writer) int {
	s, err := parse(args, stdout)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		return exitOK
	case err != nil:
		return fail(stderr, exitUsage, err)
	case s.version:
		fmt.Fprintln(stdout, "hostport-nodeproxy", version)
		return exitOK
	}
	if s.forwardIPv6 {
		return forwardIPv6(stderr)
	}
	proxy, err := nodeproxy.New(s.proxy, kernel.New())
	if err != nil {
		return fail(stderr, exitUsage, err)
	}
	if err := serve(proxy, s.healthAddress); err != nil {
		return fail(stderr, exitFailure, err)
	}
	return exitOK
}

// forwardIPv6 never fails, as the proxy, which runs next, can still serve IPv4;
// it is not ready without IPv6 forwarding and says so.
func forwardIPv6(stderr io.Writer) int {
	if err := kernel.ForwardIPv6(); err != nil {
		fmt.Fprintln(stderr, "hostport-nodeproxy:", err)
	}
	return exitOK
}

func fail(stderr io.Writer, code int, err error) int {
	fmt.Fprintln(stderr, "hostport-nodeproxy:", err)
	return code
}

// parse reads the flags; if help is asked for it goes to out.
func parse(args []string, out io.Writer) (settings, error) {
	var s settings
	fs := pflag.NewFlagSet("hostport-nodeproxy", pflag.ContinueOnError)
	fs.SetOutput(out)
	fs.StringVar(&s.proxy.ConfigFile, "config-file", config.DefaultFile, "the config, in JSON; may be replaced at any time")
	fs.StringVar(&s.healthAddress, "health-address", fmt.Sprintf(":%d", config.DefaultHealthPort), "where /readyz, /healthz and /metrics are served; the port must be none of the Service's")
	fs.DurationVar(&s.proxy.SyncPeriod, "sync-period", 2*time.Second, "how often to read the config and verify the rules")
	fs.BoolVar(&s.forwardIPv6, "forward-ipv6", false, "only switch IPv6 forwarding on in the pod, and exit; needs a privileged container")
	fs.BoolVar(&s.ipv6, "ipv6", true, "forward IPv6 if the config has it; false leaves it to other pods, which can")
	fs.BoolVar(&s.version, "version", false, "print the version and exit")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	fs.AddGoFlag(logging.Lookup("v"))
	if err := fs.Parse(args); err != nil {
		return s, err
	}
	return s, s.complete(fs.Args())
}

// complete checks the flags' values.
func (s *settings) complete(rest []string) error {
	if len(rest) > 0 {
		return fmt.Errorf("unexpected argument %q; everything is set by flags, see --help", rest[0])
	}
	if s.proxy.SyncPeriod < 100*time.Millisecond {
		return fmt.Errorf("--sync-period %s is too short; use 100ms or more", s.proxy.SyncPeriod)
	}
	_, port, err := net.SplitHostPort(s.healthAddress)
	if err != nil {
		return fmt.Errorf("--health-address %q: %w; write it like :%d", s.healthAddress, err, config.DefaultHealthPort)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("--health-address %q: the port must be a number from 1 to 65535", s.healthAddress)
	}
	s.proxy.HealthPort = uint16(n)
	s.proxy.IPv4Only = !s.ipv6
	return nil
}

// serve runs the proxy and its health endpoints until SIGTERM and the end of the
// drain time. A second signal ends the process at once.
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
