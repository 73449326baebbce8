package cluster

import (
	"context"
	"fmt"
	"net"
	"runtime"

	vnetns "github.com/vishvananda/netns"
)

// Dial connects from a host of the cluster, as net.Dialer does. The address must be an IP address
// with a port: names would be resolved as on the machine.
func (c *Cluster) Dial(ctx context.Context, host, network, address string) (net.Conn, error) {
	return c.DialWith(ctx, new(net.Dialer), host, network, address)
}

// DialWith is Dial with a dialer, which may have a source address of the host.
func (c *Cluster) DialWith(ctx context.Context, dialer *net.Dialer, host, network, address string) (conn net.Conn, err error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	// A socket stays in the namespace of the thread that created it. The thread is
	// never unlocked, so it ends with its goroutine.
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = enterNamespace(host); err == nil {
			conn, err = dialer.DialContext(ctx, network, address)
		}
	}()
	<-done
	if err != nil {
		return nil, fmt.Errorf("from %s: %w", host, err)
	}
	return conn, nil
}

func enterNamespace(host string) error {
	ns, err := vnetns.GetFromPath(netnsPath(host))
	if err != nil {
		return fmt.Errorf("host %s is not running: %w", host, err)
	}
	defer ns.Close()
	return vnetns.Set(ns)
}
