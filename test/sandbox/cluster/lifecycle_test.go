//go:build e2e

package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// The test starts and stops the machine's sandbox. No sandbox may be running.
func TestSandboxRecoversFromCrashesAndCleansUp(t *testing.T) {
	c := openIdle(t)
	ctx := t.Context()
	before := footprint(t, c)

	shape := Shape{Profile: BareMetal, KubeProxyMode: NFTables, IPFamily: DualStack} // with all that has to be cleaned up
	if err := c.Up(ctx, shape); err != nil {
		t.Fatal(err)
	}
	t.Run("a second checkout gets an error with the owner of the sandbox", func(t *testing.T) {
		second := &Cluster{source: c.source, dir: filepath.Join(t.TempDir(), ".sandbox"), log: newProgress(t.Output())}
		wantError(t, second.Up(ctx, shape), c.dir, "make sandbox-down")
		wantError(t, second.Down(ctx, false), c.dir, "--force")
	})
	t.Run("another shape is refused while one is up", func(t *testing.T) {
		wantError(t, c.Up(ctx, Shape{Profile: GCE, KubeProxyMode: NFTables, IPFamily: DualStack}), "profile baremetal", "profile gce", "make sandbox-down")
		wantError(t, c.Up(ctx, Shape{Profile: BareMetal, KubeProxyMode: IPTables, IPFamily: DualStack}), "nftables mode", "iptables mode")
		wantError(t, c.Up(ctx, Shape{Profile: BareMetal, KubeProxyMode: NFTables, IPFamily: IPv4Only}), "IP family dual", "IP family ipv4")
	})
	t.Run("two commands do not run at the same time", func(t *testing.T) {
		unlock, err := lock()
		if err != nil {
			t.Fatal(err)
		}
		defer unlock()
		wantError(t, c.Down(ctx, false), "another command")
	})
	t.Run("an unknown host or node is named in the error", func(t *testing.T) {
		_, err := c.Exec(ctx, "node9", "true")
		wantError(t, err, "node9")
		wantError(t, c.StopNode(ctx, "node9"), "node9", "node1")
	})
	t.Run("it starts again after its processes were killed", func(t *testing.T) {
		crash(t)
		if c.Running() {
			t.Fatal("it is reported as running although etcd and a node are dead")
		}
		if err := c.Up(ctx, shape); err != nil {
			t.Fatal(err)
		}
		if !c.Running() {
			t.Fatal("it does not run")
		}
	})
	t.Run("down cleans up after an unfinished start", func(t *testing.T) {
		crash(t)
		for _, file := range []string{c.stateFile(), ownerFile} {
			if err := os.WriteFile(file, []byte(`{"prof`), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Down(ctx, false); err != nil {
			t.Fatal(err)
		}
	})
	if diff := cmp.Diff(before, footprint(t, c)); diff != "" {
		t.Errorf("the machine has changed (-before +after):\n%s", diff)
	}
}

func openIdle(t *testing.T) *Cluster {
	t.Helper()
	c, err := Open(t.Output())
	if err != nil {
		t.Fatal(err)
	}
	if alive() {
		t.Fatal("a sandbox is running on this machine: stop it first")
	}
	if err := c.Down(t.Context(), false); err != nil { // cleans up after an earlier sandbox
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Down(context.WithoutCancel(t.Context()), false); err != nil {
			t.Error(err)
		}
	})
	return c
}

func wantError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", words)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("error %q does not contain %q", err, word)
		}
	}
}

// crash kills etcd, a node's containerd and another node's init, but neither pods nor other hosts.
func crash(t *testing.T) {
	t.Helper()
	for _, group := range []string{hostCgroup(Control, "etcd"), hostCgroup("node1", "containerd"), hostCgroup("node2", initProgram)} {
		pids := processes(group)
		if len(pids) == 0 {
			t.Fatalf("nothing runs in %s", group)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	err := waitFor(t.Context(), 30*time.Second, "etcd to die", func() error {
		if alive() {
			return errors.New("it is alive")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// footprint lists what a sandbox creates on a machine.
func footprint(t *testing.T, c *Cluster) map[string][]string {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	found := map[string][]string{"processes": ourProcesses()}
	for what, argv := range map[string][]string{
		"namespaces": {"ip", "netns", "list"},
		"links":      {"ip", "-brief", "link"},
		"mounts":     {"cat", "/proc/self/mounts"},
		"sysctls":    {"sysctl", "vm.overcommit_memory", "kernel.panic", "kernel.panic_on_oops", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding", "net.ipv6.conf.default.accept_dad"},
	} {
		out, err := c.run(ctx, nil, argv...)
		if err != nil {
			t.Fatal(err)
		}
		found[what] = strings.Split(out, "\n")
	}
	_ = filepath.WalkDir(cgroupMount, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, cgroupBase) {
			found["cgroups"] = append(found["cgroups"], path)
		}
		return nil
	})
	return found
}

// ourProcesses lists the processes that run programs of the sandbox.
func ourProcesses() []string {
	var found []string
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		program, _, _ := bytes.Cut(cmdline, []byte{0})
		name := filepath.Base(string(program))
		if err == nil && slices.Contains([]string{"etcd", "kube-apiserver", "kubelet", "kube-proxy", "containerd", "containerd-shim-runc-v2", "pause", "agnhost", "coredns", "gcesim", "hostport-ccm", "hostport-nodeproxy"}, name) {
			found = append(found, fmt.Sprintf("%s %s", filepath.Base(dir), name))
		}
	}
	return found
}
