package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hostport-ccm/hostport-ccm/internal/debs"
)

// maxCopied is how many connections the programs that copy are configured to hold, and filled with.
// Each takes two open files, of which a process may have 20,000 on some machines.
const maxCopied = 9_500

const (
	haproxyProgram = "/usr/sbin/haproxy"
	nginxProgram   = "/usr/sbin/nginx"
	streamModule   = "/usr/lib/nginx/modules/ngx_stream_module.so"
)

// copyingFiles are the programs and the module, by Debian package. That of the module needs nginx.
var copyingFiles = map[string][]string{
	"haproxy":             {haproxyProgram},
	"libnginx-mod-stream": {nginxProgram, streamModule},
}

// copyingVersions returns the versions of HAProxy and nginx.
func copyingVersions(packages debs.Root) (versions [2]string, err error) {
	if versions[0], err = debianVersion(packages, haproxyProgram, "version "); err != nil {
		return versions, err
	}
	versions[1], err = debianVersion(packages, nginxProgram, "nginx/")
	return versions, err
}

// debianVersion returns what a program prints about its version, from a word on.
func debianVersion(packages debs.Root, program, word string) (string, error) {
	cmd, err := packages.Command(program, "-v")
	if err != nil {
		return "", err
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -v: %w: %s", program, err, out)
	}
	_, rest, _ := strings.Cut(string(out), word)
	version, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	return strings.TrimSpace(version), nil
}

// haproxyConfig returns HAProxy's configuration for a pod. Threads are as many as processors, by
// default.
func haproxyConfig(p pod) string {
	var b strings.Builder
	fmt.Fprintf(&b, "global\n  maxconn %d\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10m\n  timeout server 10m\n", maxCopied+100)
	for port := firstPort; port <= p.lastPort(); port++ {
		fmt.Fprintf(&b, "listen port%d\n  bind :%d\n  server web %s:%d\n", port, port, clusterIP, port)
	}
	return b.String()
}

// nginxConfig returns nginx's configuration for a pod. Worker processes are as many as processors, as
// in Debian's configuration.
func nginxConfig(p pod, root, folder string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "load_module %s%s;\nuser root;\nworker_processes auto;\nworker_rlimit_nofile %d;\n", root, streamModule, 2*maxCopied+500)
	fmt.Fprintf(&b, "daemon off;\npid %s/nginx.pid;\nerror_log /dev/null;\nevents { worker_connections %d; }\nstream {\n", folder, 2*maxCopied+300)
	for port := firstPort; port <= p.lastPort(); port++ {
		fmt.Fprintf(&b, "  server { listen %d; proxy_pass %s:%d; }\n", port, clusterIP, port)
	}
	b.WriteString("}\n")
	return b.String()
}

// startCopying starts the program that copies in a pod, if it has one, and waits until it copies, to
// the backend. It ends when the lab is closed.
func (l *lab) startCopying(ctx context.Context, p pod, packages debs.Root) error {
	config := filepath.Join(l.dir, "copying.conf")
	var content string
	var args []string
	switch p.forwarder {
	case haproxy:
		content, args = haproxyConfig(p), []string{haproxyProgram, "-db", "-f", config}
	case nginx:
		content, args = nginxConfig(p, string(packages), l.dir), []string{nginxProgram, "-p", l.dir, "-e", "/dev/null", "-c", config}
	default:
		return nil
	}
	cmd, err := packages.Command(args[0], args[1:]...)
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return err
	}
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := l.on(p.host, cmd.Start); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		cancel()
		close(ended)
	}()
	l.closers = append(l.closers, func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	if err := l.awaitEcho(ctx, fmt.Sprintf("%s:%d", nodeIP, p.lastPort())); err != nil {
		select {
		case <-ended:
			return fmt.Errorf("the program in the pod ended: %s", &log)
		default:
			return err
		}
	}
	l.forwarders, err = withChildren(cmd.Process.Pid)
	return err
}

// withChildren returns the ids of a process and of its children, as nginx's workers are.
func withChildren(pid int) ([]int, error) {
	all := []int{pid}
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil, err
	}
	for child := range strings.FieldsSeq(string(children)) {
		id, err := strconv.Atoi(child)
		if err != nil {
			return nil, err
		}
		all = append(all, id)
	}
	return all, nil
}

// awaitEcho waits until the backend answers on a path.
func (l *lab) awaitEcho(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		err := l.on("client", func() error {
			conn, err := dial(address)
			if err != nil {
				return err
			}
			defer conn.Close()
			return exchange(conn, []byte{askEcho})
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no answer from %s: %w", address, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
