package nodeproxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
	"k8s.io/klog/v2"

	"github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
)

// configFile is the config file, which the kubelet replaces at any time.
type configFile struct {
	options Options
	// data is the content at the last load, nil if that failed.
	data []byte
	// info describes the file as it was just before data was read, at the time read.
	info fs.FileInfo
	read time.Time
}

// clockGranularity is more than the time for which a file system can give two changes of a file the
// same time.
const clockGranularity = 100 * time.Millisecond

// isUnchanged reports whether the file is the one that was read last, which saves reading it.
func (f *configFile) isUnchanged(now fs.FileInfo) bool {
	return f.data != nil && os.SameFile(now, f.info) && now.Size() == f.info.Size() && now.ModTime().Equal(f.info.ModTime()) &&
		f.read.Sub(now.ModTime()) > clockGranularity
}

// load reads and validates the file. changed is false if its content is the same
// as at the last load; then c and err are zero.
func (f *configFile) load() (c config.Config, changed bool, err error) {
	path := f.options.ConfigFile
	var data []byte
	info, err := os.Stat(path)
	if err == nil {
		if f.isUnchanged(info) {
			return config.Config{}, false, nil
		}
		f.info, f.read = info, time.Now()
		data, err = os.ReadFile(path)
	}
	if err != nil {
		f.data = nil
		return config.Config{}, true, fmt.Errorf("reading the config: %w; mount the Service's ConfigMap there or name another file with --config-file", err)
	}
	if f.data != nil && bytes.Equal(f.data, data) {
		return config.Config{}, false, nil
	}
	f.data = data
	c, err = config.Parse(data)
	for flag, port := range map[string]uint16{"--health-address": f.options.HealthPort, "--metrics-address": f.options.MetricsPort} {
		if err == nil && c.Has("TCP", port) {
			err = fmt.Errorf("ports: TCP port %d is also the proxy's own of %s; choose another there", port, flag)
		}
	}
	if f.options.IPv4Only {
		c = c.Without(config.IPv6)
	}
	if err == nil && len(c.ClusterIPs) == 0 {
		err = errors.New("clusterIPs: there is none but that of IPv6, which " + config.WithoutIPv6 + " leaves out; remove the flag")
	}
	if err != nil {
		return config.Config{}, true, fmt.Errorf("config file %s: %w", path, err)
	}
	return c, true, nil
}

// watch returns a channel that receives a value after a change in the file's
// directory, where the kubelet replaces a symbolic link. It only makes the proxy
// faster: each sync reads the file in any case, and a node can run out of
// inotify watches.
func (f *configFile) watch(ctx context.Context) <-chan struct{} {
	changed := make(chan struct{}, 1)
	watcher, err := fsnotify.NewWatcher()
	if err == nil {
		err = watcher.Add(filepath.Dir(f.options.ConfigFile))
	}
	if err != nil {
		klog.FromContext(ctx).Info("Config changes will be noticed by polling only", "reason", err.Error())
		return changed
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
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed
}
