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

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
	"github.com/hostport-ccm/hostport-ccm/provider/snapshot"
)

// The flags of a proxy with the ports of its metrics and of its health, which follow.
const (
	MetricsFlag = "--metrics-address=:"
	HealthFlag  = "--health-address=:"
)

// AnnotationMetricsPort is on proxies with another port of their metrics than the default one. No
// declared port of the pod shows it.
const AnnotationMetricsPort = options.Prefix + "metrics-port"

// configDir is the mount point of the ConfigMap. A mounted directory follows changes of the
// ConfigMap; a single mounted file does not.
var configDir = path.Dir(proxyconfig.DefaultFile)

const (
	// gracePeriod, in seconds, is longer than the longest drain time. The drain time itself may
	// change without replacing pods, so it is not in the template. The proxy terminates by itself
	// when it has drained.
	gracePeriod = proxyconfig.MaxDrainSeconds + 30
	// minReady, in seconds, is how long a proxy has to be ready before the rollout continues on
	// the next node: time to publish its address again. It is short because a rollout replaces
	// all proxies that are younger at the same time.
	minReady = 3
)

// daemonSet returns the DaemonSet of a proxy set that has all ports of svc. Its pods change only
// with the Service's port numbers, protocols and IP families, its options other than the drain
// time, the image, and the nodes in without, on which it does not run.
func (s Settings) daemonSet(svc *v1.Service, set int, o options.Options, without []string) *appsv1.DaemonSet {
	name := SetNames(svc)[set]
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: name, Labels: s.setLabels(svc, set)},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: s.selectorLabels(svc, set)},
			Template: v1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: s.setLabels(svc, set), Annotations: annotations(svc)},
				Spec:       s.podSpec(svc, name, o, without),
			},
			UpdateStrategy:       oneByOne(0),
			MinReadySeconds:      minReady,
			RevisionHistoryLimit: ptr.To[int32](2),
		},
	}
	addSpecHash(ds)
	return ds
}

// annotations returns those of the pods, which most Services do not need: a change replaces proxies.
func annotations(svc *v1.Service) map[string]string {
	if metrics, _ := ownPorts(svc); metrics != proxyconfig.DefaultMetricsPort {
		return map[string]string{AnnotationMetricsPort: fmt.Sprint(metrics)}
	}
	return nil
}

func (s Settings) podSpec(svc *v1.Service, configMap string, o options.Options, without []string) v1.PodSpec {
	var hostUsers *bool // nil means true
	if s.UserNamespaces {
		hostUsers = ptr.To(false)
	}
	return v1.PodSpec{
		HostUsers:                     hostUsers,
		AutomountServiceAccountToken:  ptr.To(false),
		EnableServiceLinks:            ptr.To(false),
		TerminationGracePeriodSeconds: ptr.To[int64](gracePeriod),
		// The kernel drops SIGTERM for the first process of a PID namespace while that has no handler
		// (pid_namespaces(7)), and the kubelet does not send it again before the grace period ends. On a
		// busy node, a proxy that is stopped while it starts would keep its host ports, and its Service,
		// for an hour. With a shared namespace, the first process is that of the sandbox.
		ShareProcessNamespace: ptr.To(true),
		PriorityClassName:     o.PriorityClassName,
		Tolerations:           o.Tolerations,
		SecurityContext:       &v1.PodSecurityContext{SeccompProfile: &v1.SeccompProfile{Type: v1.SeccompProfileTypeRuntimeDefault}},
		Affinity: &v1.Affinity{NodeAffinity: &v1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: snapshot.NodeSelector(o.NodeSelector, without...),
		}},
		InitContainers: s.initContainers(svc),
		Containers:     []v1.Container{s.container(svc)},
		Volumes: []v1.Volume{
			{Name: "config", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: configMap}}}},
			// iptables creates its lock file there.
			{Name: "run", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}},
		},
	}
}

// initContainers enable IPv6 forwarding for a Service with IPv6, and exit before the proxy starts.
// That takes a writable /proc/sys. Only a privileged container has one, or one in a user namespace:
// there the API server admits procMount Unmasked, and the kernel lets its root change the settings of
// the pod's network namespace alone.
func (s Settings) initContainers(svc *v1.Service) []v1.Container {
	if !hasIPv6(svc) {
		return nil
	}
	security := &v1.SecurityContext{Privileged: ptr.To(true), ReadOnlyRootFilesystem: ptr.To(true)}
	if s.UserNamespaces {
		security = leastPrivilege("NET_ADMIN")
		security.ProcMount = ptr.To(v1.UnmaskedProcMount)
	}
	return []v1.Container{{
		Name:            "forward-ipv6",
		Image:           s.ProxyImage,
		ImagePullPolicy: s.ImagePullPolicy,
		Args:            []string{"--forward-ipv6"},
		Resources:       resources(),
		SecurityContext: security,
	}}
}

// leastPrivilege returns the rights of a container with some capabilities alone.
func leastPrivilege(capabilities ...v1.Capability) *v1.SecurityContext {
	return &v1.SecurityContext{
		AllowPrivilegeEscalation: ptr.To(false),
		ReadOnlyRootFilesystem:   ptr.To(true),
		Capabilities:             &v1.Capabilities{Drop: []v1.Capability{"ALL"}, Add: capabilities},
	}
}

func hasIPv6(svc *v1.Service) bool { return slices.Contains(svc.Spec.IPFamilies, v1.IPv6Protocol) }

func resources() v1.ResourceRequirements {
	return v1.ResourceRequirements{
		Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("10m"), v1.ResourceMemory: resource.MustParse("16Mi")},
		Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")},
	}
}

func (s Settings) container(svc *v1.Service) v1.Container {
	metrics, health := ownPorts(svc)
	// Other pods do not know the UID of a Service: only those who may read the Service do.
	args := []string{
		MetricsFlag + fmt.Sprint(metrics),
		HealthFlag + fmt.Sprint(health),
		"--health-token=" + string(svc.UID),
	}
	if !hasIPv6(svc) {
		args = append(args, proxyconfig.WithoutIPv6)
	}
	// A process that hangs does not drain, so it gets a short grace period. A restarted container
	// finds the pod's rules and connections unchanged.
	liveness := probe(svc, "/healthz", health, 10, 3)
	liveness.TerminationGracePeriodSeconds = ptr.To[int64](2)
	return v1.Container{
		Name:            "proxy",
		Image:           s.ProxyImage,
		ImagePullPolicy: s.ImagePullPolicy,
		Args:            args,
		Ports:           containerPorts(svc),
		ReadinessProbe:  probe(svc, "/readyz", health, 1, 2),
		LivenessProbe:   liveness,
		// A proxy that is stopped before it has installed a handler for SIGTERM ends without draining.
		Lifecycle:       &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}},
		Resources:       resources(),
		SecurityContext: leastPrivilege("NET_ADMIN", "NET_RAW"),
		VolumeMounts: []v1.VolumeMount{
			{Name: "config", MountPath: configDir, ReadOnly: true},
			{Name: "run", MountPath: "/run"},
		},
	}
}

// probe returns a probe that brings the token of the Service's proxies.
func probe(svc *v1.Service, url string, port, period, failures int32) *v1.Probe {
	return &v1.Probe{
		ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{
			Path: url, Port: intstr.FromInt32(port),
			HTTPHeaders: []v1.HTTPHeader{{Name: "Authorization", Value: proxyconfig.BearerPrefix + string(svc.UID)}},
		}},
		PeriodSeconds:    period,
		TimeoutSeconds:   1,
		FailureThreshold: failures,
	}
}

// containerPorts names ports by protocol and number. A Service's own port names may be longer
// than the 15 characters that a container port's name may have.
func containerPorts(svc *v1.Service) []v1.ContainerPort {
	var list []v1.ContainerPort
	for _, p := range snapshot.PortsOf(svc) {
		list = append(list, v1.ContainerPort{
			Name:          fmt.Sprintf("%s-%d", strings.ToLower(string(p.Protocol)), p.Number),
			Protocol:      p.Protocol,
			ContainerPort: p.Number,
			HostPort:      p.Number,
		})
	}
	return list
}

// ownPorts returns the first two ports, from the proxy's default ones, that the Service does not
// use: packets to the Service's ports are forwarded. They are ports of the pod, not of the node.
func ownPorts(svc *v1.Service) (metrics, health int32) {
	taken := map[int32]bool{}
	for _, p := range svc.Spec.Ports {
		taken[p.Port] = true
	}
	next := func(port int32) int32 {
		for taken[port] {
			port++
		}
		return port
	}
	metrics = next(proxyconfig.DefaultMetricsPort)
	return metrics, next(metrics + 1)
}
