package main

import (
	"context"
	"io"
	"net"
	"net/http"

	"golang.org/x/sys/unix"
)

// A client's first byte selects what the backend does.
const (
	askEcho = 'e' // send back what it receives
	askSink = 's' // discard what it receives
	askHold = 'h' // send one byte back, and close the socket silently
)

func fetch(ctx context.Context, client *http.Client, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

func (l *lab) startBackend() error {
	var listener net.Listener
	err := l.on("backend", func() (err error) {
		listener, err = net.Listen("tcp", ":"+backendPort)
		return err
	})
	if err != nil {
		return err
	}
	l.closers = append(l.closers, func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn.(*net.TCPConn))
		}
	}()
	return nil
}

func serve(conn *net.TCPConn) {
	defer conn.Close()
	first := make([]byte, 1)
	if _, err := io.ReadFull(conn, first); err != nil {
		return
	}
	switch first[0] {
	case askEcho:
		_, _ = conn.Write(first)
		buffer := make([]byte, 64)
		for {
			n, err := conn.Read(buffer)
			if err != nil {
				return
			}
			if _, err := conn.Write(buffer[:n]); err != nil {
				return
			}
		}
	case askSink:
		_, _ = io.Copy(io.Discard, conn)
	case askHold:
		_, _ = conn.Write(first)
		if raw, err := conn.SyscallConn(); err == nil {
			_ = raw.Control(func(fd uintptr) { _ = forget(int(fd)) })
		}
	}
}

// forget makes the next close of a TCP socket silent: the connection stays in connection tracking,
// where it is counted, and needs no file descriptor.
func forget(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_REPAIR, unix.TCP_REPAIR_ON)
}
