// Command hostport-ccm is a cloud-controller-manager that gives Services of
// type LoadBalancer the nodes' own external addresses. What it does is in
// package provider; here are only its flags and the choice of controllers.
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
	handover := &handover{}
	command, err := newCommand(handover, ctx.Done())
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	code := cli.Run(command)
	if err := handover.release(); err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
	}
	os.Exit(code)
}

// newCommand returns the command; it runs until stopped is closed.
func newCommand(handover *handover, stopped <-chan struct{}) (*cobra.Command, error) {
	options, err := defaults()
	if err != nil {
		return nil, fmt.Errorf("preparing flags: %w", err)
	}
	var cloud *provider.Cloud
	initializer := func(*appconfig.CompletedConfig) cloudprovider.Interface { return cloud }
	command := app.NewCloudControllerManagerCommand(options, initializer, controllers(handover), names.CCMControllerAliases(), cliflag.NamedFlagSets{}, stopped)
	command.Use, command.Long = name, help
	// Before the app does anything else, such as waiting for the API server:
	// a mistake in the config is to stop us with this one line.
	command.PreRunE = func(cmd *cobra.Command, _ []string) error {
		printVersionIfRequested(cmd)
		cfg, err := config.Load(options.KubeCloudShared.CloudProvider.CloudConfigFile)
		if err != nil {
			return err
		}
		cloud, err = provider.New(cmd.Context(), cfg)
		return err
	}
	return command, nil
}

// defaults are the flags' defaults where ours differ from upstream's.
func defaults() (*ccmoptions.CloudControllerManagerOptions, error) {
	options, err := ccmoptions.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	options.KubeCloudShared.CloudProvider.Name = provider.ProviderName
	// Beside another cloud-controller-manager the usual lease would have only
	// one of the two work.
	options.Generic.LeaderElection.ResourceName = name
	options.Generic.LeaderElection.ResourceNamespace = "hostport-system"
	// A leader that dies with its node is replaced in time for the node's
	// addresses to leave soon, for one small request a second.
	options.Generic.LeaderElection.LeaseDuration.Duration = 8 * time.Second
	options.Generic.LeaderElection.RenewDeadline.Duration = 5 * time.Second
	options.Generic.LeaderElection.RetryPeriod.Duration = time.Second
	// One slow call of the cloud's API is not to stall all Services.
	options.ServiceController.ConcurrentServiceSyncs = 10
	// Within this time a changed external address is in the Node. The list of
	// instances is cached, so this costs one request for all nodes.
	options.NodeStatusUpdateFrequency.Duration = 15 * time.Second
	options.Generic.ClientConnection.QPS, options.Generic.ClientConnection.Burst = 50, 100
	return options, nil
}

// controllers leaves out the route controller: pod routes are the network
// plugin's business.
func controllers(handover *handover) map[string]app.ControllerInitFuncConstructor {
	all := maps.Clone(app.DefaultInitFuncConstructors)
	delete(all, names.NodeRouteController)
	service := all[names.ServiceLBController]
	service.Constructor = handover.watch(provider.StartServiceController)
	all[names.ServiceLBController] = service
	return all
}

// printVersionIfRequested prints ours where upstream would print that of
// Kubernetes. --version=raw, which tells the libraries' build, is left to it.
func printVersionIfRequested(cmd *cobra.Command) {
	if flag := cmd.Flags().Lookup("version"); flag != nil && flag.Value.String() == "true" {
		fmt.Println(name, version)
		os.Exit(0)
	}
	verflag.PrintAndExitIfRequested()
}
