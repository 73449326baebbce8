package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
	"github.com/hostport-ccm/hostport-ccm/test/sandbox/cluster"
)

// Limits are for machines much slower than any seen: they do not judge hostport-ccm.
const (
	limit = 15 * time.Minute
	// quiet is for how long hostport-ccm must write nothing for a phase to be over.
	quiet = 5 * time.Second
)

// phase is what was measured of one change of the cluster.
type phase struct {
	Name string
	// Seconds is the time until the cluster was as it has to be.
	Seconds float64
	// Services is how many Services the change concerns.
	Services int
	// Of hostport-ccm, until it was quiet:
	Writes, Reads, Cloud counts
	// DirectWrites are those of Writes in namespaces of direct Services.
	DirectWrites int
	// MostStatusWrites is the largest number of writes to one Service's status.
	MostStatusWrites int
	CPU              time.Duration
}

// result is what was measured of a scene.
type result struct {
	Scene  scene
	Phases []phase
	// RSS is the resident memory of hostport-ccm in KiB after the Services were created, Peak the
	// largest until their end.
	RSS, Peak int
}

// The names of phases.
const (
	created       = "created"
	restarted     = "restarted"
	otherDown     = "another node NotReady"
	down          = "published node NotReady"
	up            = "published node Ready again"
	renumbered    = "published node's address changed"
	gone          = "published node deleted"
	nsDeleted     = "namespace deleted"
	othersDeleted = "others deleted"
)

// measurement is a scene that is being measured.
type measurement struct {
	*lab
	scene  scene
	result result
}

// measure runs a scene and verifies each of its states.
func (l *lab) measure(ctx context.Context, s scene) (result, error) {
	m := &measurement{lab: l, scene: s, result: result{Scene: s}}
	for _, step := range []func(context.Context) error{m.prepare, m.create, m.restart, m.nodeEvents, m.deleteNamespace, m.deleteOthers} {
		if err := step(ctx); err != nil {
			return m.result, fmt.Errorf("%s: %w", s, err)
		}
	}
	return m.result, nil
}

// prepare makes the nodes and starts hostport-ccm.
func (m *measurement) prepare(ctx context.Context) error {
	if err := m.setNodes(ctx, m.scene.Nodes); err != nil {
		return err
	}
	err := await(ctx, "the nodes to be Ready", func(context.Context) error { return m.nodesReady(m.scene.Nodes) })
	if err != nil {
		return err
	}
	fmt.Fprintln(m.log, m.scene)
	if err := m.startProduct(ctx); err != nil {
		return err
	}
	if err := await(ctx, "the start of hostport-ccm", func(ctx context.Context) error { return m.synced(ctx, 0) }); err != nil {
		return err
	}
	return m.settle(ctx, quiet)
}

// settle waits until hostport-ccm has written nothing for a period. It keeps the requests until then.
func (m *measurement) settle(ctx context.Context, period time.Duration, requests ...*[]request) error {
	last := time.Now()
	return await(ctx, "hostport-ccm to be quiet", func(context.Context) error {
		more, err := m.audit.next()
		if err != nil {
			return err
		}
		for _, kept := range requests {
			*kept = append(*kept, more...)
		}
		if slices.ContainsFunc(more, request.isWrite) {
			last = time.Now()
		}
		if time.Since(last) < period {
			return errors.New("it has just written")
		}
		return nil
	})
}

// phase measures a change: cause makes it and returns since when the time counts; done returns an
// error until the cluster is as it has to be, and again when hostport-ccm is quiet.
func (m *measurement) phase(ctx context.Context, name string, cause func(context.Context) (time.Time, error), done func(context.Context) error) (*phase, error) {
	if _, err := m.audit.next(); err != nil {
		return nil, err
	}
	if err := m.sim.ForgetRequests(ctx); err != nil {
		return nil, err
	}
	before, usedBefore := publishedBy(m.allServices()), m.used()
	began, err := cause(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := await(ctx, name, done); err != nil {
		return nil, err
	}
	p := phase{Name: name, Seconds: time.Since(began).Seconds(), Services: publishedBy(m.allServices()).changed(before)}
	var requests []request
	if err := m.settle(ctx, quiet, &requests); err != nil {
		return nil, err
	}
	if err := done(ctx); err != nil {
		return nil, fmt.Errorf("%s did not last: %w", name, err)
	}
	p.CPU = m.used().CPU - usedBefore.CPU
	p.count(requests)
	if p.Cloud, err = m.cloudRequests(ctx); err != nil {
		return nil, err
	}
	m.result.Phases = append(m.result.Phases, p)
	fmt.Fprintln(m.log, p)
	return &m.result.Phases[len(m.result.Phases)-1], nil
}

func (p *phase) count(requests []request) {
	p.Writes, p.Reads = count(requests, request.isWrite), count(requests, isRead)
	p.DirectWrites = count(requests, func(r request) bool { return r.isWrite() && strings.HasPrefix(r.Namespace, "direct-") }).total()
	p.MostStatusWrites = mostStatusWrites(requests)
}

func (p phase) String() string {
	return fmt.Sprintf("  %s: %.1fs, %d Services, CPU %.1fs\n    writes (to one status at most %d): %s\n    reads: %s\n    Compute API: %s",
		p.Name, p.Seconds, p.Services, p.CPU.Seconds(), p.MostStatusWrites, p.Writes, p.Reads, p.Cloud)
}

// used returns what the process of hostport-ccm has used; nothing if it does not run.
func (m *measurement) used() usage {
	u, _ := usageOf(m.pid)
	m.result.Peak = max(m.result.Peak, u.Peak)
	return u
}

func (m *measurement) cloudRequests(ctx context.Context) (counts, error) {
	requests, err := m.sim.Requests(ctx)
	c := counts{}
	for _, r := range requests {
		c[r.Verb]++
	}
	return c, err
}

// right returns an error unless all addresses are right, given those from before.
func (m *measurement) right(before published) func(context.Context) error {
	return func(context.Context) error {
		if wrong := m.scene.wrongAddresses(m.allServices(), m.allNodes(), before); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "\n"))
		}
		return nil
	}
}

func (m *measurement) create(ctx context.Context) error {
	objects := m.scene.objects()
	for _, namespace := range namespacesOf(objects) {
		object := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}
		if _, err := m.client.CoreV1().Namespaces().Create(ctx, object, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	go func() {
		if err := m.profile(ctx, "profile?seconds=20", "create-cpu-"+m.scene.fileName()); err != nil {
			fmt.Fprintln(m.log, err)
		}
	}()
	p, err := m.phase(ctx, created, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		return began, each(ctx, objects, func(ctx context.Context, svc *v1.Service) error {
			_, err := m.client.CoreV1().Services(svc.Namespace).Create(ctx, svc, metav1.CreateOptions{})
			return err
		})
	}, m.right(nil))
	if err != nil {
		return err
	}
	p.Services = m.scene.services()
	m.result.RSS = m.used().RSS
	return errors.Join(m.profile(ctx, "heap?gc=1", "heap-"+m.scene.fileName()), m.verifyRest(ctx))
}

func (s scene) fileName() string { return fmt.Sprintf("%d-%d-%d", s.Direct, s.Proxied, s.Nodes) }

func namespacesOf(services []*v1.Service) []string {
	var all []string
	for _, svc := range services {
		all = append(all, svc.Namespace)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// verifyRest returns an error unless mirrors and the firewall fit the Services.
func (m *measurement) verifyRest(ctx context.Context) error {
	state, err := m.sim.State(ctx)
	if err != nil {
		return err
	}
	wrong, err := wrongPorts(state.Firewalls, m.allServices())
	if err != nil || wrong != "" {
		return errors.Join(err, errors.New(wrong))
	}
	mirrorOf, nodes := map[types.NamespacedName]*v1.Service{}, m.allNodes()
	if err := m.eachMirror(ctx, func(mirror *v1.Service) { mirrorOf[plan.ServiceOf(mirror)] = mirror }); err != nil {
		return err
	}
	for _, svc := range m.allServices() {
		mirror := mirrorOf[keyOf(svc)]
		switch {
		case (mirror != nil) != isDirect(svc):
			return fmt.Errorf("%s: has a mirror: %t", keyOf(svc), mirror != nil)
		case mirror == nil:
			continue
		}
		if wrong := wrongMirror(mirror, svc, nodes); wrong != "" {
			return errors.New(wrong)
		}
	}
	return nil
}

// ofProduct selects what hostport-ccm has made.
const ofProduct = plan.LabelManagedBy + "=" + plan.ManagedBy

// eachMirror calls do for each mirror.
func (m *measurement) eachMirror(ctx context.Context, do func(*v1.Service)) error {
	options := metav1.ListOptions{LabelSelector: ofProduct, Limit: 100}
	for {
		page, err := m.client.CoreV1().Services("").List(ctx, options)
		if err != nil {
			return err
		}
		for i := range page.Items {
			do(&page.Items[i])
		}
		if options.Continue = page.Continue; options.Continue == "" {
			return nil
		}
	}
}

// restart replaces the process of hostport-ccm. That is over when it has synced all Services.
func (m *measurement) restart(ctx context.Context) error {
	before := publishedBy(m.allServices())
	if err := m.stopProduct(ctx); err != nil {
		return err
	}
	_, err := m.phase(ctx, restarted, func(ctx context.Context) (time.Time, error) { return time.Now(), m.startProduct(ctx) },
		func(ctx context.Context) error {
			if err := m.synced(ctx, m.scene.services()); err != nil {
				return err
			}
			return m.right(before)(ctx)
		})
	return err
}

func (m *measurement) deleteNamespace(ctx context.Context) error {
	namespace := namespacesOf(m.scene.objects())[0]
	count := 0
	for _, svc := range m.allServices() {
		if svc.Namespace == namespace {
			count++
		}
	}
	p, err := m.phase(ctx, nsDeleted, func(ctx context.Context) (time.Time, error) {
		return time.Now(), m.client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{})
	}, func(ctx context.Context) error { return m.namespaceGone(ctx, namespace) })
	if err == nil {
		p.Services = count
	}
	return err
}

func (m *measurement) namespaceGone(ctx context.Context, namespace string) error {
	_, err := m.client.CoreV1().Namespaces().Get(ctx, namespace, metav1.GetOptions{})
	switch {
	case err == nil:
		return fmt.Errorf("namespace %s exists", namespace)
	case apierrors.IsNotFound(err):
		return nil
	}
	return err
}

// deleteOthers deletes all other Services and verifies that nothing remains of any.
func (m *measurement) deleteOthers(ctx context.Context) error {
	remaining := m.allServices()
	p, err := m.phase(ctx, othersDeleted, func(ctx context.Context) (time.Time, error) {
		began := time.Now()
		return began, each(ctx, remaining, func(ctx context.Context, svc *v1.Service) error {
			return m.client.CoreV1().Services(svc.Namespace).Delete(ctx, svc.Name, metav1.DeleteOptions{})
		})
	}, m.nothingLeft)
	if err != nil {
		return err
	}
	p.Services = len(remaining)
	for _, namespace := range namespacesOf(remaining) {
		if err := m.client.CoreV1().Namespaces().Delete(ctx, namespace, metav1.DeleteOptions{}); err != nil {
			return err
		}
		if err := await(ctx, "deletion of "+namespace, func(ctx context.Context) error { return m.namespaceGone(ctx, namespace) }); err != nil {
			return err
		}
	}
	return m.stopProduct(ctx)
}

// nothingLeft returns an error if a Service, or anything made for one, exists.
func (m *measurement) nothingLeft(ctx context.Context) error {
	if n := len(m.allServices()); n > 0 {
		return fmt.Errorf("%d Services exist", n)
	}
	state, err := m.sim.State(ctx)
	if err != nil {
		return err
	}
	made := metav1.ListOptions{LabelSelector: ofProduct, Limit: 1}
	mirrors, err := m.client.CoreV1().Services("").List(ctx, made)
	daemonSets, err1 := m.client.AppsV1().DaemonSets(cluster.ProductNamespace).List(ctx, made)
	configMaps, err2 := m.client.CoreV1().ConfigMaps(cluster.ProductNamespace).List(ctx, made)
	pods, err3 := m.client.CoreV1().Pods(cluster.ProductNamespace).List(ctx, made)
	if err := errors.Join(err, err1, err2, err3); err != nil {
		return err
	}
	for kind, left := range map[string]int{
		"mirror": len(mirrors.Items), "DaemonSet": len(daemonSets.Items), "ConfigMap": len(configMaps.Items), "pod": len(pods.Items), "firewall rule": len(state.Firewalls),
	} {
		if left > 0 {
			return fmt.Errorf("a %s is left", kind)
		}
	}
	return nil
}
