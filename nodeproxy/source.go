package nodeproxy

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// source is the config file, which the kubelet replaces while we run.
type source struct {
	path       string
	healthPort uint16
	ipv4Only   bool
	data       []byte
}

// load reads the file. changed is false if it holds the same as at the last
// call, whose error or config still stands then.
func (s *source) load() (c config.Config, changed bool, err error) {
	data, err := os.ReadFile(s.path)
	if err != nil {
		s.data = nil
		return config.Config{}, true, fmt.Errorf("reading the config: %w; mount the Service's ConfigMap there or name another file with --config-file", err)
	}
	if s.data != nil && bytes.Equal(s.data, data) {
		return config.Config{}, false, nil
	}
	s.data = append([]byte{}, data...)
	if c, err = config.Parse(data); err != nil {
		return config.Config{}, true, fmt.Errorf("config file %s: %w", s.path, err)
	}
	if c.Has("TCP", s.healthPort) {
		return config.Config{}, true, fmt.Errorf("config file %s: ports: TCP port %d is also the proxy's own of --health-address; choose another there", s.path, s.healthPort)
	}
	if s.ipv4Only {
		c = c.Without(config.IPv6)
	}
	if len(c.ClusterIPs) == 0 {
		return config.Config{}, true, fmt.Errorf("config file %s: clusterIPs: there is none but that of IPv6, which %s leaves out; remove the flag", s.path, config.WithoutIPv6)
	}
	return c, true, nil
}

// watch returns a channel that gets a value after something in the file's
// directory changed: the kubelet swaps a symbolic link beside the file. It is an
// accelerator only, since a node may have run out of inotify watches; the loop
// reads the file at every pass anyway.
func (s *source) watch(ctx context.Context) <-chan struct{} {
	wake := make(chan struct{}, 1)
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(filepath.Dir(s.path))
	}
	if err != nil {
		klog.FromContext(ctx).Info("Config changes will be noticed by polling only", "reason", err.Error())
		return wake
	}
	go func() {
		defer watcher.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case <-watcher.Errors:
			case <-watcher.Events:
			}
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	return wake
}
