package main

import (
	"net"
	"net/netip"
	"sync"
)

// maxPerClient is how many connections a client may have to the health or the metrics endpoint. The
// kubelet and Prometheus have one or two.
const maxPerClient = 8

// fairListener closes new connections of a client address that has maxPerClient. So one pod cannot
// use up the process's memory, and with it the kubelet's probes.
type fairListener struct {
	net.Listener
	mu sync.Mutex
	// open is the number of connections by client.
	open map[netip.Addr]int
}

// Accept returns the next connection of a client that has few.
func (l *fairListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr()
		if l.add(client) {
			return &countedConn{conn, sync.OnceFunc(func() { l.remove(client) })}, nil
		}
		conn.Close()
	}
}

func (l *fairListener) add(client netip.Addr) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[client] >= maxPerClient {
		return false
	}
	l.open[client]++
	return true
}

func (l *fairListener) remove(client netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open[client]--; l.open[client] == 0 {
		delete(l.open, client)
	}
}

// countedConn is a connection that is counted until it is closed.
type countedConn struct {
	net.Conn
	closed func()
}

// Close closes the connection.
func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}
