package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// runningProxy is the real proxy, in its pod.
type runningProxy struct {
	pod
	lab    *lab
	cmd    *exec.Cmd
	config string
	// readyAfter is the time from its start until it was ready.
	readyAfter time.Duration
}

// buildProxy builds the proxy in a folder, as for the image, and returns the path of the program.
func buildProxy(ctx context.Context, folder string) (string, error) {
	binary := filepath.Join(folder, "hostport-nodeproxy")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/hostport-ccm/hostport-ccm/cmd/hostport-nodeproxy")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the proxy: %w: %s", err, out)
	}
	return binary, nil
}

// startProxies starts a proxy in each pod that has one, in turn, and waits until it is ready. The
// proxies are to be stopped even after an error.
func (l *lab) startProxies(ctx context.Context, binary string) (all []*runningProxy, err error) {
	for _, pod := range l.pods {
		if pod.forwarder != realProxy {
			continue
		}
		p := &runningProxy{pod: pod, lab: l, config: filepath.Join(l.dir, pod.host+".json")}
		if err := p.write("198.51.100.0/24"); err != nil {
			return all, err
		}
		p.cmd = exec.Command(binary, "--config-file="+p.config)
		p.cmd.Env = append(os.Environ(), "XTABLES_LOCKFILE="+filepath.Join(l.dir, "lock"))
		began := time.Now()
		if err := l.on(pod.host, p.cmd.Start); err != nil {
			return all, err
		}
		all = append(all, p)
		if err := p.await(ctx, "/readyz", "ok"); err != nil {
			return all, err
		}
		p.readyAfter = time.Since(began)
	}
	return all, nil
}

// write replaces the config in one step. The last source range is the given one.
func (p *runningProxy) write(source string) error {
	c := config.Config{Service: "bench/web", ClusterIPs: []string{clusterIP}}
	for i := range p.ports {
		c.Ports = append(c.Ports, config.Port{Protocol: "TCP", Port: uint16(firstPort + i)})
	}
	for i := range p.ranges - 1 {
		c.SourceRanges = append(c.SourceRanges, fmt.Sprintf("11.%d.%d.0/25", i/256, i%256))
	}
	c.SourceRanges = append(c.SourceRanges, source)
	content, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := os.WriteFile(p.config+".new", content, 0o600); err != nil {
		return err
	}
	return os.Rename(p.config+".new", p.config)
}

// await waits until the proxy's reply at a path contains a text.
func (p *runningProxy) await(ctx context.Context, path, want string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	address := "127.0.0.1:10271"
	if path == "/metrics" {
		address = "127.0.0.1:10270"
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (conn net.Conn, err error) {
		err = p.lab.on(p.host, func() error {
			conn, err = net.DialTimeout("tcp", address, time.Second)
			return err
		})
		return conn, err
	}}
	for {
		body, err := fetch(ctx, &http.Client{Transport: transport}, "http://pod"+path)
		if err == nil && strings.Contains(body, want) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the proxy's %s does not contain %q but is %q, %v", path, want, body, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the process; its rules stay.
func (p *runningProxy) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		_ = p.cmd.Wait()
	}
}

// memory returns a field of the process's status, in KiB.
func (p *runningProxy) memory(field string) (int, error) {
	return memoryOf(p.cmd.Process.Pid, field)
}

// memoryOf returns a field of a process's status, in KiB.
func memoryOf(pid int, field string) (kib int, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), field)
	_, err = fmt.Sscan(rest, &kib)
	return kib, err
}
