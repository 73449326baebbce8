package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

func TestAClientWithManyConnectionsLeavesTheEndpointToOthers(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := &fairListener{Listener: inner, open: map[netip.Addr]int{}}
	defer listener.Close()
	accepted := make(chan net.Conn, 100)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func(from string) net.Conn {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	var open []net.Conn
	for range maxPerClient {
		dial("127.0.0.2")
		open = append(open, <-accepted)
	}
	further := dial("127.0.0.2")
	if err := further.SetReadDeadline(time.Now().Add(longTimeout)); err != nil {
		t.Fatal(err)
	}
	if _, err := further.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a further connection was not closed: %v", err)
	}
	dial("127.0.0.3")
	if from := (<-accepted).RemoteAddr().(*net.TCPAddr).IP.String(); from != "127.0.0.3" {
		t.Errorf("a connection from %s was accepted", from)
	}
	// Closing twice counts once.
	for range 2 {
		_ = open[0].Close()
	}
	dial("127.0.0.2")
	<-accepted
	if got := listener.open[netip.MustParseAddr("127.0.0.2")]; got != maxPerClient {
		t.Errorf("%d connections are counted, want %d", got, maxPerClient)
	}
}
