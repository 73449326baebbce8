// Command foreignccm is another provider's cloud-controller-manager, for tests of hostport-ccm
// beside one: all of upstream's controllers, as Google's and others' run them, with a simulated
// cloud. It initialises the nodes and serves Services without a class with addresses that are not
// reachable.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/wait"
	cloudprovider "k8s.io/cloud-provider"
	"k8s.io/cloud-provider/app"
	appconfig "k8s.io/cloud-provider/app/config"
	"k8s.io/cloud-provider/names"
	"k8s.io/cloud-provider/options"
	"k8s.io/component-base/cli"
	cliflag "k8s.io/component-base/cli/flag"
)

func main() {
	command, err := newCommand()
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(1)
	}
	os.Exit(cli.Run(command))
}

func newCommand() (*cobra.Command, error) {
	flags, err := options.NewCloudControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	flags.KubeCloudShared.CloudProvider.Name = providerName
	var cloud *foreign
	initializer := func(*appconfig.CompletedConfig) cloudprovider.Interface { return cloud }
	command := app.NewCloudControllerManagerCommand(flags, initializer, app.DefaultInitFuncConstructors, names.CCMControllerAliases(), cliflag.NamedFlagSets{}, wait.NeverStop)
	command.PreRunE = func(*cobra.Command, []string) (err error) {
		cloud, err = load(flags.KubeCloudShared.CloudProvider.CloudConfigFile)
		return err
	}
	return command, nil
}
