package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A host is a network namespace and a process ("init") with a mount and a UTS namespace. It has its
// own /run, /var/lib and /var/log, so that programs with fixed paths there do not conflict with
// those of other hosts or of the machine.

const initProgram = "init"

// boot starts a host whose network namespace exists.
func (c *Cluster) boot(ctx context.Context, host string) error {
	for _, dir := range []string{"lib", "log", "etc"} {
		if err := os.MkdirAll(c.hostDir(host, dir), 0o755); err != nil {
			return err
		}
	}
	ready := c.hostDir(host, "booted")
	_ = os.Remove(ready)
	script := fmt.Sprintf(`set -e
mount --make-rshared /
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock
mount --bind %q /var/lib
mount --bind %q /var/log
mkdir /run/proc
mount -t proc proc /run/proc
%s
hostname %s
: > %q
exec sleep infinity`, c.hostDir(host, "lib"), c.hostDir(host, "log"), maskSysctls(c.hostDir(host, "etc")), host, ready)
	cmd := []string{"nsenter", "--net=" + netnsPath(host), "unshare", "--mount", "--uts", "--propagation", "private", "sh", "-c", script}
	if err := c.spawn(host, initProgram, cmd); err != nil {
		return err
	}
	return waitFor(ctx, 20*time.Second, "host "+host+" to boot, log "+c.logFile(host, initProgram), func() error {
		_, err := os.Stat(ready)
		return err
	})
}

// maskSysctls returns shell lines that mount files with the kernel settings that a kubelet
// requires, so that it does not change those of the machine, which are not per namespace. (The list
// is from the kubelet's container manager.) Pods with a user namespace can mount /proc nevertheless:
// the kernel only requires that some procfs of the node is not covered, as at /run/proc.
func maskSysctls(dir string) string {
	var b strings.Builder
	for file, value := range map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	} {
		mask := filepath.Join(dir, strings.ReplaceAll(file, "/", "."))
		fmt.Fprintf(&b, "echo %s > %q; mount --bind %q /proc/sys/%s\n", value, mask, mask, file)
	}
	return b.String()
}

// daemon starts a long-running program on a host with its output in logFile.
func (c *Cluster) daemon(host, program string, argv ...string) error {
	enter, err := c.enter(host)
	if err != nil {
		return err
	}
	return c.spawn(host, program, append(enter, argv...))
}

// Daemon starts a program on a host until stop is called or the cluster stops. Its output is in logFile.
func (c *Cluster) Daemon(host, program string, argv ...string) (logFile string, stop func(context.Context) error, err error) {
	stop = func(ctx context.Context) error { return killAll(ctx, hostCgroup(host, program)) }
	return c.logFile(host, program), stop, c.daemon(host, program, argv...)
}

// spawn starts a program in its own cgroup.
func (c *Cluster) spawn(host, program string, argv []string) error {
	group := hostCgroup(host, program)
	if err := makeCgroup(group); err != nil {
		return err
	}
	log, err := os.Create(c.logFile(host, program))
	if err != nil {
		return err
	}
	defer log.Close()
	join := fmt.Sprintf(`echo $$ > %q && exec "$@"`, filepath.Join(trackingHierarchy(), group, "cgroup.procs"))
	cmd := exec.Command("sh", append([]string{"-c", join, "sh"}, argv...)...)
	cmd.Dir = "/"
	cmd.Env = c.environ()
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s on %s: %w", program, host, err)
	}
	go func() { _ = cmd.Wait() }()
	return nil
}

// environ returns an environment with the sandbox's programs before the machine's in PATH.
func (c *Cluster) environ() []string {
	path := strings.Join(append(append([]string{}, c.bin...), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"), ":")
	return append(os.Environ(), "PATH="+path)
}

func (c *Cluster) logFile(host, program string) string {
	return filepath.Join(c.dir, "log", host+"-"+program+".log")
}

// enter returns the prefix that runs a command on a host.
func (c *Cluster) enter(host string) ([]string, error) {
	pids := processes(hostCgroup(host, initProgram))
	if len(pids) == 0 {
		return nil, fmt.Errorf("host %s is not running", host)
	}
	return []string{"nsenter", "-t", fmt.Sprint(pids[0]), "-m", "-u", "-n", "--"}, nil
}

// Command returns a command that runs on a host of the cluster.
func (c *Cluster) Command(ctx context.Context, host string, argv ...string) (*exec.Cmd, error) {
	enter, err := c.enter(host)
	if err != nil {
		return nil, err
	}
	argv = append(enter, argv...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = c.environ()
	return cmd, nil
}

// CommandWithResolver is Command with a file in place of /etc/resolv.conf.
func (c *Cluster) CommandWithResolver(ctx context.Context, host, resolvConf string, argv ...string) (*exec.Cmd, error) {
	script := `mount --bind "$1" /etc/resolv.conf && shift && exec "$@"`
	return c.Command(ctx, host, append([]string{"unshare", "--mount", "sh", "-c", script, "sh", resolvConf}, argv...)...)
}

// Exec runs a command on a host and returns its standard output. The error contains its standard
// error.
func (c *Cluster) Exec(ctx context.Context, host string, argv ...string) (string, error) {
	return c.execInput(ctx, host, nil, argv...)
}

func (c *Cluster) execInput(ctx context.Context, host string, in io.Reader, argv ...string) (string, error) {
	cmd, err := c.Command(ctx, host, argv...)
	if err != nil {
		return "", err
	}
	cmd.Stdin = in
	return output(cmd, host+": "+strings.Join(argv, " "))
}

// run runs a command on the machine itself.
func (c *Cluster) run(ctx context.Context, in io.Reader, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Stdin = in
	cmd.Env = c.environ()
	return output(cmd, strings.Join(argv, " "))
}

func output(cmd *exec.Cmd, what string) (string, error) {
	// A child that keeps the pipe open must not block.
	cmd.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return stdout.String(), fmt.Errorf("%s: %w: %s", what, err, strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), nil
}

// waitFor calls try until it succeeds. The error names what was waited for and wraps the last
// error.
func waitFor(ctx context.Context, limit time.Duration, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s: %w", limit, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func netnsPath(host string) string { return "/run/netns/" + netns(host) }

func netns(host string) string { return "hp-" + host }

func hostCgroup(host, program string) string {
	return cgroupBase + "/" + host + "/" + program
}

// hostDir returns the path of a host's files on the machine's disk.
func (c *Cluster) hostDir(host string, elem ...string) string {
	return filepath.Join(append([]string{c.dir, "hosts", host}, elem...)...)
}
