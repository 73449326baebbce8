package plan

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/api/core/v1"

	proxyconfig "github.com/hostport-ccm/hostport-ccm/nodeproxy/config"
	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// defaulted returns a proxy set whose DaemonSet has the defaults of the API server.
func defaulted(t *testing.T, p *ProxySet) *ProxySet {
	t.Helper()
	stored := *p
	stored.DaemonSet = p.DaemonSet.DeepCopy()
	data, err := json.Marshal(stored.DaemonSet) // Quantities lose their Go form on the wire.
	if err != nil {
		t.Fatal(err)
	}
	stored.DaemonSet.Spec.Template = v1.PodTemplateSpec{}
	if err := json.Unmarshal(data, stored.DaemonSet); err != nil {
		t.Fatal(err)
	}
	stored.DaemonSet.ResourceVersion, stored.DaemonSet.Generation = "7", 1
	stored.DaemonSet.Annotations["deprecated.daemonset.template.generation"] = "1"
	stored.DaemonSet.Spec.UpdateStrategy.RollingUpdate.MaxSurge = nil
	spec := &stored.DaemonSet.Spec.Template.Spec
	spec.RestartPolicy, spec.DNSPolicy, spec.SchedulerName = v1.RestartPolicyAlways, v1.DNSClusterFirst, "default-scheduler"
	spec.Volumes[0].ConfigMap.DefaultMode = new(int32(0o644))
	container := &spec.Containers[0]
	container.TerminationMessagePath, container.TerminationMessagePolicy = "/dev/termination-log", v1.TerminationMessageReadFile
	container.ReadinessProbe.SuccessThreshold, container.ReadinessProbe.HTTPGet.Scheme = 1, v1.URISchemeHTTP
	return &stored
}

func TestUpdateDaemonSetRevertsManualChanges(t *testing.T) {
	for name, c := range map[string]struct {
		edit, want func(*ProxySet)
		writes     bool
	}{
		"no change is not written": {},
		"a new image is written": {want: func(p *ProxySet) {
			p.DaemonSet.Spec.Template.Spec.Containers[0].Image = "proxy:2"
			addSpecHash(p.DaemonSet)
		}, writes: true},
		"removed tolerations are written": {edit: func(p *ProxySet) { p.DaemonSet.Annotations[AnnotationSpecHash] = "other" }, writes: true},
		"an edited image is reverted":     {edit: func(p *ProxySet) { p.DaemonSet.Spec.Template.Spec.Containers[0].Image = "evil" }, writes: true},
		"an added container is removed":   {edit: addContainer, writes: true},
		"a removed label is restored":     {edit: func(p *ProxySet) { delete(p.DaemonSet.Labels, LabelServiceName) }, writes: true},
		"labels of others are ignored":    {edit: func(p *ProxySet) { p.DaemonSet.Labels["team"] = "x" }},
		"a removed hash is restored":      {edit: func(p *ProxySet) { delete(p.DaemonSet.Annotations, AnnotationSpecHash) }, writes: true},
		"a removed port is restored":      {edit: func(p *ProxySet) { c := &p.DaemonSet.Spec.Template.Spec.Containers[0]; c.Ports = c.Ports[:1] }, writes: true},
		"an added privilege is removed":   {edit: addCapability, writes: true},
		"the pod annotation of kubectl rollout restart is ignored": {edit: func(p *ProxySet) {
			p.DaemonSet.Spec.Template.Annotations = map[string]string{"kubectl.kubernetes.io/restartedAt": "now"}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := mustProxies(t, service(), options.Default())
			have := defaulted(t, want)
			if c.edit != nil {
				c.edit(have)
			}
			if c.want != nil {
				c.want(want)
			}
			updated, differences := UpdateDaemonSet(have.DaemonSet, want.DaemonSet)
			writes := len(differences) > 0
			if writes != c.writes {
				t.Fatalf("writes: %t, want %t", writes, c.writes)
			}
			if !writes {
				return
			}
			if _, again := UpdateDaemonSet(updated, want.DaemonSet); len(again) > 0 || updated.ResourceVersion != "7" {
				t.Error("the update does not result in the wanted DaemonSet")
			}
		})
	}
}

func addContainer(p *ProxySet) {
	spec := &p.DaemonSet.Spec.Template.Spec
	spec.Containers = append(spec.Containers, v1.Container{Name: "more"})
}

func addCapability(p *ProxySet) {
	c := p.DaemonSet.Spec.Template.Spec.Containers[0].SecurityContext.Capabilities
	c.Add = append(c.Add, "SYS_ADMIN")
}

func TestUpdateConfigMapRevertsManualChanges(t *testing.T) {
	want := mustProxies(t, service(), options.Default()).ConfigMap
	if _, differences := UpdateConfigMap(want.DeepCopy(), want); len(differences) > 0 {
		t.Error("an equal ConfigMap is written")
	}
	for i, edit := range []func(*v1.ConfigMap){
		func(cm *v1.ConfigMap) { cm.Data[proxyconfig.FileName] = "{}" },
		func(cm *v1.ConfigMap) { cm.Data["more"] = "x" },
		func(cm *v1.ConfigMap) { cm.BinaryData = map[string][]byte{"more": nil} },
		func(cm *v1.ConfigMap) { cm.Labels = nil },
	} {
		t.Run(fmt.Sprint("edit ", i+1), func(t *testing.T) {
			have := want.DeepCopy()
			edit(have)
			updated, differences := UpdateConfigMap(have, want)
			if len(differences) == 0 {
				t.Fatal("the edit is not detected")
			}
			if diff := cmp.Diff(want, updated, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the edit is not reverted (-want +got):\n%s", diff)
			}
		})
	}
}
