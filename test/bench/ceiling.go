package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// ceiling is how many simultaneous connections a path allowed.
type ceiling struct {
	name string
	// connections were answered and not closed; the node's and the pod's connection
	// tracking had these numbers of entries then.
	connections             int64
	nodeTracked, podTracked string
	// resident is the proxy's memory then, peak its peak after a change of config, in KiB, or 0.
	resident, peak int
}

// maxFailures is the number of failures after which a ceiling is reached.
const maxFailures = 128

// measureCeilings fills each path with connections. At the end it stops the proxy and changes its
// rules, to measure what they allow with more source addresses.
func (l *lab) measureCeilings(ctx context.Context, p *runningProxy, limit int) ([]ceiling, error) {
	var all []ceiling
	count := func(name string, w netPath) error {
		c, err := l.fill(ctx, name, w, limit)
		all = append(all, c)
		return err
	}
	if err := count(direct.name, direct); err != nil {
		return all, err
	}
	if err := count("proxy", onePort.path()); err != nil {
		return all, err
	}
	if err := p.addMemory(ctx, &all[len(all)-1]); err != nil {
		return all, err
	}
	p.stop()
	const half = "iptables-nft -t nat %s HOSTPORT-PREROUTING -p tcp -m statistic --mode random --probability 0.5 -j DNAT --to-destination " + secondClusterIP
	if err := l.do(p.host, fmt.Sprintf(half, "-I")); err != nil {
		return all, err
	}
	if err := count("proxy, 2 cluster IPs with an endpoint each", onePort.path()); err != nil {
		return all, err
	}
	if err := l.do(p.host, fmt.Sprintf(half, "-D")); err != nil {
		return all, err
	}
	const more = "iptables-nft -t nat -I HOSTPORT-POSTROUTING 1 -p tcp -m conntrack --ctstate DNAT -j SNAT --to-source 10.1.%d.5-10.1.%d.8 --random-fully"
	if err := l.do(p.host, fmt.Sprintf(more, 9, 9)); err != nil {
		return all, err
	}
	if err := count("proxy, 4 source addresses that nobody routes to the pod", onePort.path()); err != nil {
		return all, err
	}
	if err := l.do("node", "ip route add 10.1.9.0/24 via "+p.ip()); err != nil {
		return all, err
	}
	return all, count("proxy, 4 source addresses that the node routes to the pod", onePort.path())
}

// fill opens connections until there are limit of them or maxFailures have failed.
func (l *lab) fill(ctx context.Context, name string, w netPath, limit int) (ceiling, error) {
	c := ceiling{name: name}
	var err, nodeErr, podErr error
	c.connections, err = l.hold(ctx, w, limit)
	c.nodeTracked, nodeErr = l.tracked("node")
	c.podTracked, podErr = l.tracked(onePort.host)
	return c, errors.Join(err, nodeErr, podErr)
}

// hold opens connections as fill does and returns how many are held, with empty connection tracking
// at the start.
func (l *lab) hold(ctx context.Context, w netPath, limit int) (int64, error) {
	if err := l.flush(); err != nil {
		return 0, err
	}
	target := netip.MustParseAddrPort(w.address)
	var next, done, failed atomic.Int64
	var workers sync.WaitGroup
	for range 64 {
		workers.Go(func() {
			_ = l.on("client", func() error {
				for failed.Load() < maxFailures && ctx.Err() == nil {
					i := next.Add(1) - 1
					if i >= int64(limit) {
						return nil
					}
					if holdOne(int(i), target) == nil {
						done.Add(1)
					} else {
						failed.Add(1)
					}
				}
				return nil
			})
		})
	}
	workers.Wait()
	return done.Load(), ctx.Err()
}

// tracked returns how many entries a host's connection tracking has.
func (l *lab) tracked(host string) (count string, err error) {
	err = l.on(host, func() error {
		data, err := os.ReadFile("/proc/thread-self/net/stat/nf_conntrack")
		if err != nil {
			return err
		}
		lines := strings.Split(string(data), "\n")
		var n int64
		if _, err := fmt.Sscanf(lines[1], "%x", &n); err != nil {
			return err
		}
		count = fmt.Sprint(n)
		return nil
	})
	return count, err
}

// holdOne opens the i-th connection, exchanges a byte and closes the socket silently. It chooses
// the client's address and port, as the kernel would use the same ones again.
func holdOne(i int, target netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	limit := unix.Timeval{Sec: 2}
	from := &unix.SockaddrInet4{Port: 1024 + i/clients, Addr: [4]byte{198, 51, 100, byte(2 + i%clients)}}
	for _, err := range []error{
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
		unix.Bind(fd, from),
		unix.Connect(fd, &unix.SockaddrInet4{Port: int(target.Port()), Addr: target.Addr().As4()}),
	} {
		if err != nil {
			return err
		}
	}
	buffer := []byte{askHold}
	if _, err := unix.Write(fd, buffer); err != nil {
		return err
	}
	if n, err := unix.Read(fd, buffer); err != nil || n != 1 {
		return fmt.Errorf("read %d bytes: %w", n, err)
	}
	return forget(fd)
}

// addMemory measures the proxy's memory while connection tracking is full, and its peak when a
// change, to a range that contains the earlier one, makes it read all entries.
func (p *runningProxy) addMemory(ctx context.Context, c *ceiling) (err error) {
	if c.resident, err = p.memory("VmRSS:"); err != nil {
		return err
	}
	if err = p.write("198.51.0.0/16"); err != nil {
		return err
	}
	for _, passes := range []string{`result="changed"} 2`, `result="unchanged"} `} {
		if err = p.await(ctx, "/metrics", passes); err != nil {
			return err
		}
	}
	c.peak, err = p.memory("VmHWM:")
	return err
}

func printCeilings(out io.Writer, all []ceiling, limit int) {
	fmt.Fprintf(out, "\nSimultaneous connections, at most %d tried:\n", limit)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "path\tconnections\ttracked on the node\ttracked in the pod\tproxy's memory, KiB\tits peak at a change, KiB\t")
	for _, c := range all {
		fmt.Fprintf(table, "%s\t%d\t%s\t%s\t", c.name, c.connections, c.nodeTracked, c.podTracked)
		if c.resident > 0 {
			fmt.Fprintf(table, "%d\t%d\t", c.resident, c.peak)
		}
		fmt.Fprintln(table)
	}
	table.Flush()
	if data, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max"); err == nil {
		fmt.Fprintf(out, "A host tracks at most %s (net.netfilter.nf_conntrack_max).\n", strings.TrimSpace(string(data)))
	}
}
