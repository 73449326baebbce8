package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
)

// route is a way from a port of the node to the backend.
type route struct {
	name         string
	loadBalancer bool // by kube-proxy's rules for the node's address in the status
	local        bool // of a Service of policy Local
	hostPort     bool // by a host port
	forwarder    forwarder
}

// routes are compared. The first is what the others are compared with.
var routes = []route{
	{name: "kube-proxy, NodePort"},
	{name: "direct", loadBalancer: true},
	{name: "direct, policy Local", loadBalancer: true, local: true},
	{name: "hostPort of the application", hostPort: true},
	{name: "proxy", hostPort: true, forwarder: realProxy},
	{name: "like klipper-lb", hostPort: true, forwarder: klipperRules},
	{name: "HAProxy", hostPort: true, forwarder: haproxy},
	{name: "nginx stream", hostPort: true, forwarder: nginx},
}

// pods returns the pods beside the backend.
func (r route) pods(ports int) []pod {
	if r.forwarder == noForwarder {
		return nil
	}
	return []pod{{name: r.name, host: "pod0", ports: ports, ranges: 1, forwarder: r.forwarder}}
}

// nodeRules returns the node's rules.
func (r route) nodeRules(ports int) string {
	s := service{ports: ports, loadBalancer: r.loadBalancer, local: r.local}
	switch pods := r.pods(ports); {
	case len(pods) > 0:
		return nodeRules(s, func(i int) string { return fmt.Sprintf("%s:%d", pods[0].ip(), firstPort+i) })
	case r.hostPort:
		return nodeRules(s, func(int) string { return backendIP + ":" + backendPort })
	}
	return nodeRules(s, nil)
}

// path returns the path to the last of the ports.
func (r route) path(ports int) netPath {
	first := firstNodePort
	if r.hostPort || r.loadBalancer {
		first = firstPort
	}
	return netPath{r.name, fmt.Sprintf("%s:%d", nodeIP, first+ports-1)}
}

// routeLab is a route with a number of ports, in a lab of its own: no packet passes rules of
// another.
type routeLab struct {
	route
	ports int
	lab   *lab
	proxy *runningProxy
}

// routeLabs is all labs, those with the first number of ports first.
type routeLabs struct{ labs []*routeLab }

// newRouteLabs builds the labs. It must be closed even after an error.
func newRouteLabs(ctx context.Context, dir string, packages debs.Root, ports []int) (*routeLabs, error) {
	c := &routeLabs{}
	binary, err := buildProxy(ctx, dir)
	if err != nil {
		return c, err
	}
	for _, n := range ports {
		for _, r := range routes {
			one := &routeLab{route: r, ports: n}
			c.labs = append(c.labs, one)
			if err := one.start(ctx, fmt.Sprintf("%d-", len(c.labs)), packages, binary); err != nil {
				return c, fmt.Errorf("%s: %w", r.name, err)
			}
		}
	}
	return c, nil
}

func (c *routeLab) start(ctx context.Context, name string, packages debs.Root, proxyBinary string) (err error) {
	c.lab, err = newLab(name, c.pods(c.ports), c.nodeRules(c.ports))
	if err != nil {
		return err
	}
	if err := c.lab.startBackend(); err != nil {
		return err
	}
	proxies, err := c.lab.startProxies(ctx, proxyBinary)
	if len(proxies) > 0 {
		c.proxy = proxies[0]
	}
	if err != nil {
		return err
	}
	for _, p := range c.lab.pods {
		if err := c.lab.startCopying(ctx, p, packages); err != nil {
			return err
		}
	}
	return c.lab.awaitEcho(ctx, c.path(c.ports).address)
}

func (c *routeLabs) close() {
	for _, one := range c.labs {
		if one.proxy != nil {
			one.proxy.stop()
		}
		if one.lab != nil {
			one.lab.close()
		}
	}
}

// String returns the name with the number of ports.
func (c *routeLab) String() string {
	return strings.Join([]string{c.name, portsText(c.ports)}, ", ")
}

func portsText(n int) string {
	if n == 1 {
		return "1 port"
	}
	return fmt.Sprintf("%d ports", n)
}
