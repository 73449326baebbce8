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
	err = c.On(host, func() (err error) {
		conn, err = dialer.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// On calls f on a thread in the network namespace of a host. Sockets that f opens stay there.
func (c *Cluster) On(host string, f func() error) (err error) {
	done := make(chan struct{})
	// The thread is never unlocked, so it ends with its goroutine.
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if err = enterNamespace(host); err == nil {
			err = f()
		}
	}()
	<-done
	if err != nil {
		return fmt.Errorf("from %s: %w", host, err)
	}
	return nil
}

func enterNamespace(host string) error {
	ns, err := vnetns.GetFromPath(netnsPath(host))
	if err != nil {
		return fmt.Errorf("host %s is not running: %w", host, err)
	}
	defer ns.Close()
	return vnetns.Set(ns)
}
