// Command sandbox runs the test cluster: a real Kubernetes cluster with hostport-ccm, in network
// namespaces of one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

const usage = `usage: go run ./test/sandbox COMMAND

  up [FLAGS]                    start the cluster, or update hostport-ccm in a running one:
                                --profile gce|gke|baremetal, --kube-proxy-mode iptables|nftables,
                                --ip-family ipv4|dual, --kubernetes 1.36.3
  down [--force]                stop it and remove all that it created; --force: also that of another checkout
  demo [FLAGS]                  start it and show a Service being served
  status                        show what runs where
  kubectl ARG...                kubectl as the cluster's administrator
  exec HOST -- CMD ARG...       run a command on a host: gw, internet, internet2,
                                control, node1, node2, node3
  stop NODE                     power a node off
  start NODE                    power it on again
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case err == nil:
	case errors.As(err, &exit) && exit.ExitCode() > 0 && errors.Is(err, errChild):
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return errors.New("no command given")
	}
	c, err := cluster.Open(os.Stderr)
	if err != nil {
		return err
	}
	command, args := args[0], args[1:]
	switch command {
	case "up", "demo":
		return upOrDemo(ctx, c, command, args)
	case "down":
		flags := flag.NewFlagSet(command, flag.ExitOnError)
		force := flags.Bool("force", false, "stop a cluster of another checkout too")
		_ = flags.Parse(args)
		return c.Down(ctx, *force)
	case "status":
		fmt.Print(c.Status())
		return nil
	case "kubectl":
		return kubectl(ctx, c, args)
	case "exec":
		return execute(ctx, c, args)
	case "stop", "start":
		return power(ctx, c, command, args)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return nil
	}
	fmt.Fprint(os.Stderr, usage)
	return fmt.Errorf("unknown command %q", command)
}

func upOrDemo(ctx context.Context, c *cluster.Cluster, command string, args []string) error {
	flags := flag.NewFlagSet(command, flag.ExitOnError)
	var shape cluster.Shape
	shape.AddFlags(flags)
	_ = flags.Parse(args)
	if err := c.Up(ctx, shape); err != nil {
		return err
	}
	if command == "demo" {
		return demo(ctx, c)
	}
	fmt.Print(c.Status())
	return nil
}

func kubectl(ctx context.Context, c *cluster.Cluster, args []string) error {
	if !c.Running() {
		return cluster.ErrNotRunning
	}
	cmd := exec.CommandContext(ctx, c.KubectlPath(), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig())
	return attach(cmd)
}

func execute(ctx context.Context, c *cluster.Cluster, args []string) error {
	if len(args) > 1 && args[1] == "--" {
		args = append(args[:1:1], args[2:]...)
	}
	if len(args) < 2 {
		return errors.New("exec needs a host and a command: exec internet -- curl http://203.0.113.11")
	}
	cmd, err := c.Command(ctx, args[0], args[1:]...)
	if err != nil {
		return err
	}
	return attach(cmd)
}

func power(ctx context.Context, c *cluster.Cluster, command string, args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("%s needs the name of one node", command)
	}
	if command == "stop" {
		return c.StopNode(ctx, args[0])
	}
	return c.StartNode(ctx, args[0])
}

// errChild marks the failure of a child process that has printed its error itself.
var errChild = errors.New("command failed")

func attach(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %w", errChild, err)
	}
	return nil
}
