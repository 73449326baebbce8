package plan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	nodeproxy "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// configDir is the mount point of the ConfigMap. The directory is mounted and
// not the one file, which would never change in a running pod.
var configDir = path.Dir(nodeproxy.DefaultFile)

const (
	// gracePeriod outlasts the longest drain time: the drain time itself, which
	// may change in a Service's life, must not be in the template. The proxy
	// ends by itself when it has drained.
	gracePeriod = nodeproxy.MaxDrainSeconds + 30
	// settled is how long a proxy has to be ready before the rollout goes on to
	// the next node, in seconds: time for its address to be published again. Not
	// more, since a rollout that begins before all proxies are that old replaces
	// those that are not at once.
	settled = 3
)

// daemonSet runs one proxy per node, of a set that has all ports of svc. Its pods
// change only with the Service's port numbers, protocols and IP families, its
// options other than the drain time, and the image.
func (s Settings) daemonSet(svc *v1.Service, set int, o options.Options) *appsv1.DaemonSet {
	name := SetNames(svc)[set]
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: s.setLabels(svc, set)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: s.selectorLabels(svc, set)},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: s.setLabels(svc, set)},
				Spec:       s.podSpec(svc, name, o),
			},
			UpdateStrategy:       oneByOne(0),
			MinReadySeconds:      settled,
			RevisionHistoryLimit: ptr.To[int32](2),
		},
	}
	seal(ds)
	return ds
}

func (s Settings) podSpec(svc *v1.Service, configMap string, o options.Options) v1.PodSpec {
	return v1.PodSpec{
		AutomountServiceAccountToken:  ptr.To(false),
		EnableServiceLinks:            ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To[int64](gracePeriod),
		PriorityClassName:             o.PriorityClassName,
		Tolerations:                   o.Tolerations,
		SecurityContext:               &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
		Affinity: &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: nodeSelector(o.NodeSelector),
		}},
		InitContainers: s.initContainers(svc),
		Containers:     []v1.Container{s.container(svc)},
		Volumes: []v1.Volume{
			{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: configMap}}}},
			// iptables keeps its lock file there.
			{Name: "run", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
		},
	}
}

// initContainers are for a Service with IPv6 only: there is no way to switch
// IPv6 forwarding on in a pod's network namespace without privilege. Once it has
// done so, nothing privileged runs.
func (s Settings) initContainers(svc *v1.Service) []v1.Container {
	if !hasIPv6(svc) {
		return nil
	}
	return []v1.Container{{
		Name:            "forward-ipv6",
		Image:           s.ProxyImage,
		ImagePullPolicy: s.ImagePullPolicy,
		Args:            []string{"--forward-ipv6"},
		Resources:       resources(),
		SecurityContext: &v1.SecurityContext{Privileged: ptr.To(true), ReadOnlyRootFilesystem: ptr.To(true)},
	}}
}

func hasIPv6(svc *v1.Service) bool { return slices.Contains(svc.Spec.IPFamilies, v1.IPv6Protocol) }

func resources() v1.ResourceRequirements {
	return v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("10m"), v1.ResourceMemory: resource.MustParse("16Mi")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")},
	}
}

func (s Settings) container(svc *v1.Service) v1.Container {
	health := healthPort(svc)
	return v1.Container{
		Name:            "proxy",
		Image:           s.ProxyImage,
		ImagePullPolicy: s.ImagePullPolicy,
		Args:            args(svc, health),
		Ports:           containerPorts(svc),
		ReadinessProbe:  probe("/readyz", health, 1, 2),
		LivenessProbe:   livenessProbe(health),
		Lifecycle:       lifecycle(),
		Resources:       resources(),
		SecurityContext: &v1.SecurityContext{
			AllowPrivilegeEscalation: ptr.To(false),
			ReadOnlyRootFilesystem:   ptr.To(true),
			Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: []v1.Capability{"NET_ADMIN", "NET_RAW"}},
		},
		VolumeMounts: []v1.VolumeMount{
			{Name: "config", MountPath: configDir, ReadOnly: true},
			{Name: "run", MountPath: "/run"},
		},
	}
}

func args(svc *v1.Service, health int32) []string {
	list := []string{fmt.Sprintf("--health-address=:%d", health)}
	if !hasIPv6(svc) {
		list = append(list, nodeproxy.WithoutIPv6)
	}
	return list
}

// lifecycle holds back the signal to end for a moment. The kernel drops it while
// the first process of a pod has not yet said what to do with it, and nobody
// sends it again before the grace period ends: a proxy stopped right after its
// start would stay that long, and hold its host ports.
func lifecycle() *v1.Lifecycle {
	return &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}}
}

// livenessProbe has a grace period of its own: who hangs does not drain, and the
// pod's grace period is no time to wait for it. A container that is started again
// in the same pod finds its rules, and connections, where they were.
func livenessProbe(port int32) *v1.Probe {
	p := probe("/healthz", port, 10, 3)
	p.TerminationGracePeriodSeconds = ptr.To[int64](2)
	return p
}

func probe(url string, port, period, failures int32) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:     v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: url, Port: intstr.FromInt32(port)}},
		PeriodSeconds:    period,
		TimeoutSeconds:   1,
		FailureThreshold: failures,
	}
}

// containerPorts names ports by protocol and number: a Service's own port
// names may be longer than the 15 characters a container port's may have.
func containerPorts(svc *v1.Service) []v1.ContainerPort {
	var list []v1.ContainerPort
	for _, p := range Ports(svc) {
		list = append(list, v1.ContainerPort{
			Name:          fmt.Sprintf("%s-%d", strings.ToLower(string(p.Protocol)), p.Port),
			Protocol:      p.Protocol,
			ContainerPort: p.Port,
			HostPort:      p.Port,
		})
	}
	return list
}

// healthPort is the first from the proxy's usual one that the Service does not
// use: packets to the Service's ports are forwarded away. It is a port of the
// pod; nothing on the node is taken.
func healthPort(svc *v1.Service) int32 {
	taken := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		taken[p.Port] = true
	}
	port := int32(nodeproxy.DefaultHealthPort)
	for taken[port] {
		port++
	}
	return port
}
