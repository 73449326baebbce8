// Command hostport-ccm is a cloud-controller-manager that gives Services of type LoadBalancer the
// nodes' own external addresses. This package has its flags and selects its controllers; package
// provider implements them.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	ccmoptions "k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
	_ "k8s.io/component-base/logs/json/register"          // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // metrics of requests and queues
	_ "k8s.io/component-base/metrics/prometheus/version"  // metric kubernetes_build_info
	"k8s.io/component-base/version/verflag"

	"github.com/hostport-ccm/hostport-ccm/provider"
	"github.com/hostport-ccm/hostport-ccm/provider/config"
)

// version is set by the linker.
var version = "unknown"

const (
	name = "hostport-ccm"
	help = `hostport-ccm is a cloud-controller-manager for clusters without a cloud load
balancer: a Service of type LoadBalancer gets a small proxy on each node, its
ports opened in the cloud's firewall, and the nodes' own external addresses in
its status. It also initialises nodes where it is the cluster's only
cloud-controller-manager; beside another one, run it with
--controllers=service-lb-controller.`
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	lease := &leaderLease{}
	command, err := newCommand(lease, ctx.Done())
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	code := cli.Run(command)
	if err := lease.release(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	os.Exit(code)
}

// newCommand returns the command. It runs until stopped is closed.
func newCommand(lease *leaderLease, stopped <-chan struct{}) (*cobra.Command, error) {
	options, err := defaults()
	if err != nil {
		return nil, fmt.Errorf("preparing flags: %w", err)
	}
	var cloud *provider.Cloud
	initializer := func(*appconfig.CompletedConfig) cloudprovider.Interface { return cloud }
	command := app.NewCloudControllerManagerCommand(options, initializer, controllers(lease), names.CCMControllerAliases(), cliflag.NamedFlagSets{}, stopped)
	command.Use, command.Long = name, help
	// PreRunE runs before anything else, such as waiting for the API server, so that the error in an
	// invalid config is the only line of output.
	command.PreRunE = func(cmd *cobra.Command, _ []string) error {
		printVersionIfRequested(cmd)
		cfg, err := config.Load(options.KubeCloudShared.CloudProvider.CloudConfigFile)
		if err != nil {
			return err
		}
		if !cmd.Flags().Changed("leader-elect-resource-namespace") {
			options.Generic.LeaderElection.ResourceNamespace = cfg.LoadBalancer.Namespace
		}
		cloud, err = provider.New(cmd.Context(), cfg)
		return err
	}
	return command, nil
}

// defaults returns the options of the app with the defaults of hostport-ccm.
func defaults() (*ccmoptions.CloudControllerManagerOptions, error) {
	options, err := ccmoptions.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	options.KubeCloudShared.CloudProvider.Name = provider.ProviderName
	// With the default lease, only one of two cloud-controller-managers in a cluster would run.
	options.Generic.LeaderElection.ResourceName = name
	options.Generic.LeaderElection.ResourceNamespace = "hostport-system" // until the cloud config is read
	// When the leader's own node dies, another replica leads within 9 s and withdraws the node's
	// addresses. This costs one small request a second.
	options.Generic.LeaderElection.LeaseDuration.Duration = 8 * time.Second
	// A leader that is short of CPU gives up as late as possible.
	options.Generic.LeaderElection.RenewDeadline.Duration = 7 * time.Second
	options.Generic.LeaderElection.RetryPeriod.Duration = time.Second
	// With several workers, a slow call of the cloud's API delays one Service, not all.
	options.ServiceController.ConcurrentServiceSyncs = 10
	// Within this time the Node shows a changed external address. The list of instances is cached, so
	// this costs one request for all nodes.
	options.NodeStatusUpdateFrequency.Duration = 15 * time.Second
	// A change of a node may change the statuses of all Services. The API server's priority and fairness
	// protects it, and as many requests run at a time as there are workers.
	options.Generic.ClientConnection.QPS, options.Generic.ClientConnection.Burst = 200, 1000
	return options, nil
}

// controllers returns those of upstream without the route controller, as the network plugin routes
// pods, and with the service controller of package provider.
func controllers(lease *leaderLease) map[string]app.ControllerInitFuncConstructor {
	all := maps.Clone(app.DefaultInitFuncConstructors)
	delete(all, names.NodeRouteController)
	service := all[names.ServiceLBController]
	service.Constructor = lease.wrap(provider.StartServiceController)
	all[names.ServiceLBController] = service
	return all
}

// printVersionIfRequested prints the version of hostport-ccm for --version, where upstream prints
// that of Kubernetes. Upstream handles --version=raw, which prints the build of its libraries.
func printVersionIfRequested(cmd *cobra.Command) {
	if flag := cmd.Flags().Lookup("version"); flag != nil && flag.Value.String() == "true" {
		fmt.Println(name, version)
		os.Exit(0)
	}
	verflag.PrintAndExitIfRequested()
}
