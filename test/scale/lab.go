package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"golang.org/x/sync/errgroup"
	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/hostport-ccm/hostport-ccm/internal/version"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// lab is a sandbox with simulated nodes, and hostport-ccm as a process.
type lab struct {
	cluster *cluster.Cluster
	client  kubernetes.Interface
	sim     gcesim.AdminClient
	web     *http.Client
	audit   auditReader
	// services has the Services of a scene, without mirrors.
	services corelisters.ServiceLister
	nodes    corelisters.NodeLister
	// pid is the process of hostport-ccm; 0 if it does not run.
	pid int
	// profiles is the folder for profiles; empty: none are taken.
	profiles string
	log      io.Writer
}

// cloudConfig is that of the sandbox with shared firewall rules, as one for each Service would
// exceed the quota of most projects.
const cloudConfig = `apiVersion: hostport-ccm.io/v1alpha1
kind: CloudConfig
clusterID: scale
provider: gce
loadBalancer:
  proxyImage: ghcr.io/hostport-ccm/hostport-nodeproxy:` + version.Current + `
  kubeProxyMode: iptables
gce:
  apiEndpoint: http://10.142.0.1:8080
  nodeTags: [` + cluster.NodeTag + `]
  firewallLayout: shared
`

// start replaces what an earlier run has left of a sandbox, if it is of this checkout, by a new one.
// Call close also after an error.
func start(ctx context.Context, log io.Writer, profiles string) (*lab, error) {
	c, err := cluster.Open(log)
	if err != nil {
		return nil, err
	}
	l := &lab{cluster: c, sim: cluster.Simulator(), profiles: profiles, log: log}
	if err := c.Down(ctx, false); err != nil {
		return nil, err
	}
	shape := cluster.Shape{Profile: cluster.Simulated, KubeProxyMode: cluster.IPTables, IPFamily: cluster.IPv4Only}
	if err := c.Up(ctx, shape); err != nil {
		return l, err
	}
	l.audit.path = c.AuditLog()
	return l, l.connect(ctx)
}

// close removes the sandbox. A nil lab has none.
func (l *lab) close(ctx context.Context) error {
	if l == nil {
		return nil
	}
	return l.cluster.Down(context.WithoutCancel(ctx), false)
}

// connect makes the clients, which have no limit of requests.
func (l *lab) connect(ctx context.Context) error {
	config, err := clientcmd.BuildConfigFromFlags("", l.cluster.Kubeconfig())
	if err != nil {
		return err
	}
	config.QPS, config.ContentType = -1, "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = config.ContentType
	if l.client, err = kubernetes.NewForConfig(config); err != nil {
		return err
	}
	// The metrics of hostport-ccm have a certificate that it has signed itself.
	insecure := rest.CopyConfig(config)
	insecure.TLSClientConfig.CAData, insecure.TLSClientConfig.Insecure = nil, true
	tlsConfig, err := rest.TLSConfigFor(insecure)
	if err != nil {
		return err
	}
	l.web = &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{}}}

	factory := informers.NewSharedInformerFactory(l.client, 0)
	marked := informers.NewSharedInformerFactoryWithOptions(l.client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.LabelSelector = label }))
	l.services, l.nodes = marked.Core().V1().Services().Lister(), factory.Core().V1().Nodes().Lister()
	for _, f := range []informers.SharedInformerFactory{factory, marked} {
		f.Start(ctx.Done())
		for kind, synced := range f.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return fmt.Errorf("the cache of %s has not synced", kind)
			}
		}
	}
	return nil
}

func (l *lab) allServices() []*v1.Service {
	all, _ := l.services.List(labels.Everything()) // From the cache: never an error.
	return all
}

func (l *lab) allNodes() []*v1.Node {
	all, _ := l.nodes.List(labels.Everything()) // From the cache: never an error.
	return all
}

// parallel is how many requests of a test run at a time.
const parallel = 16

// each calls do for each item, some at a time, until one fails.
func each[T any](ctx context.Context, items []T, do func(context.Context, T) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, item := range items {
		group.Go(func() error { return do(ctx, item) })
	}
	return group.Wait()
}

// setNodes makes n nodes with their machines the only ones, as they are at first.
func (l *lab) setNodes(ctx context.Context, n int) error {
	state, err := l.sim.State(ctx)
	if err != nil {
		return err
	}
	have := map[string]gcesim.Instance{}
	for _, in := range state.Instances {
		have[in.Name] = in
	}
	var wanted []gcesim.Instance
	for i := range n {
		in := machine(i)
		if have[in.Name].NatIP != in.NatIP {
			wanted = append(wanted, in)
		}
		delete(have, in.Name)
	}
	if err := each(ctx, wanted, l.sim.PutInstance); err != nil {
		return err
	}
	for _, in := range have {
		if err := l.removeNode(ctx, in); err != nil {
			return err
		}
	}
	return each(ctx, wanted, func(ctx context.Context, in gcesim.Instance) error {
		// The API server takes the status of a new Node as it is.
		_, err := l.client.CoreV1().Nodes().Create(ctx, node(in), metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return err
		}
		status, err := json.Marshal(map[string]any{"status": map[string]any{"addresses": node(in).Status.Addresses}})
		if err != nil {
			return err
		}
		_, err = l.client.CoreV1().Nodes().Patch(ctx, in.Name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status")
		return err
	})
}

// removeNode removes a machine and its Node.
func (l *lab) removeNode(ctx context.Context, in gcesim.Instance) error {
	if err := l.sim.RemoveInstance(ctx, in.Zone, in.Name); err != nil {
		return err
	}
	err := l.client.CoreV1().Nodes().Delete(ctx, in.Name, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) { // hostport-ccm has deleted it, as its machine is gone.
		return nil
	}
	return err
}

// nodesReady returns an error unless there are n Ready nodes with external addresses.
func (l *lab) nodesReady(n int) error {
	if good := len(goodNodes(l.allNodes())); good != n {
		return fmt.Errorf("%d of %d nodes are Ready", good, n)
	}
	return nil
}

// startProduct starts hostport-ccm.
func (l *lab) startProduct(ctx context.Context) (err error) {
	l.pid, err = l.cluster.StartProduct(ctx, cloudConfig)
	return err
}

func (l *lab) stopProduct(ctx context.Context) error {
	l.pid = 0
	return l.cluster.StopProduct(ctx)
}

// get reads a path of hostport-ccm's server.
func (l *lab) get(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, cluster.ProductURL+path, nil)
	if err != nil {
		return nil, err
	}
	reply, err := l.web.Do(request)
	if err != nil {
		return nil, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	if err == nil && reply.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, reply.Status, strings.TrimSpace(string(body)))
	}
	return body, err
}

// synced returns an error unless hostport-ccm has synced each of n Services since its start, and has
// nothing more to do.
func (l *lab) synced(ctx context.Context, n int) error {
	body, err := l.get(ctx, "/metrics")
	if err != nil {
		return err
	}
	done, waiting, err := serviceQueue(string(body))
	switch {
	case err != nil:
		return err
	case done < n || waiting > 0:
		return fmt.Errorf("%d syncs have ended, %d Services wait", done, waiting)
	}
	return nil
}

// serviceQueue reads from metrics how many items of the queue of Services have been processed, and
// how many wait.
func serviceQueue(metrics string) (done, waiting int, err error) {
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(metrics))
	if err != nil {
		return 0, 0, err
	}
	value := func(family string) int {
		for _, m := range families[family].GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "name" && l.GetValue() == "service" {
					return int(m.GetHistogram().GetSampleCount()) + int(m.GetGauge().GetValue())
				}
			}
		}
		return 0
	}
	return value("workqueue_work_duration_seconds"), value("workqueue_depth"), nil
}

// await calls try until it returns nil, for at most limit.
func await(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("not within %s", limit))
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: %w", what, context.Cause(ctx), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// profile writes a profile of hostport-ccm to the folder for profiles.
func (l *lab) profile(ctx context.Context, path, name string) error {
	if l.profiles == "" {
		return nil
	}
	data, err := l.get(ctx, "/debug/pprof/"+path)
	return errors.Join(err, os.WriteFile(filepath.Join(l.profiles, name+".pprof"), data, 0o644))
}
