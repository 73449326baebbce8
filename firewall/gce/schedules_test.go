package gce

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/hostport-ccm/hostport-ccm/firewall"
	"github.com/hostport-ccm/hostport-ccm/internal/gce"
	"github.com/hostport-ccm/hostport-ccm/test/gcesim"
)

var (
	schedules = flag.Int("schedules", 500, "number of schedules of faults to try; make unit tries more")
	oneSeed   = flag.Int64("schedule-seed", -1, "try only the schedule of this seed")
)

// TestWhateverFailsRulesEndAsWantedAndNothingIsLeft tries random sequences of
// edits under random faults and crashes. After the faults end, one call must make
// the rules equal to what is wanted, and deletion must leave only rules without
// our mark.
func TestWhateverFailsRulesEndAsWantedAndNothingIsLeft(t *testing.T) {
	if *oneSeed >= 0 {
		if err := runSchedule(uint64(*oneSeed)); err != nil {
			t.Error(err)
		}
		return
	}
	var next atomic.Int64
	var group errgroup.Group
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() error {
			for seed := next.Add(1); seed <= int64(*schedules); seed = next.Add(1) {
				if err := runSchedule(uint64(seed)); err != nil {
					next.Store(int64(*schedules))
					return fmt.Errorf("seed %d (repeat with -schedule-seed=%d): %w", seed, seed, err)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// schedule is one sequence of edits and faults.
type schedule struct {
	rand     *rand.Rand
	sim      *gcesim.Sim
	tags     []string // As configured; empty: those that the nodes have.
	firewall *Firewall
	wanted   map[types.UID]firewall.Spec   // No ports: deleted.
	gone     map[types.UID]bool            // Deleted successfully.
	nodeTags []string                      // Those that all nodes have.
	tampered map[string]bool               // Rules that an administrator changed.
	required map[string]bool               // Traffic that must be allowed at every moment.
	frozen   map[types.UID][]firewall.Rule // The rules of Services in report mode.
	broken   error                         // The first violation that observe saw.
}

// crashing forwards a number of requests. With the next one the process dies:
// before the request reaches the server, or after.
type crashing struct {
	http.RoundTripper
	mu         sync.Mutex
	remaining  int // Negative: no crash.
	afterwards bool
	die        context.CancelFunc
}

var errCrashed = errors.New("crashed")

func (c *crashing) RoundTrip(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.remaining != 0 {
		c.remaining--
		return c.RoundTripper.RoundTrip(r)
	}
	if c.afterwards {
		if reply, err := c.RoundTripper.RoundTrip(r); err == nil {
			reply.Body.Close()
		}
		c.afterwards = false
	}
	c.die()
	return nil, errCrashed
}

// start starts a new process, without the memory of the one before.
func (s *schedule) start(transport http.RoundTripper) error {
	client, err := gce.New(context.Background(), gce.Options{
		Project: "sandbox", Network: "default", Endpoint: "http://sim", HTTPClient: &http.Client{Transport: transport},
		Backoff: wait.Backoff{Duration: time.Nanosecond, Steps: 3},
	})
	if err != nil {
		return err
	}
	options := Options{Tags: s.tags, Layout: pick(s, firewall.PerService, firewall.Shared)}
	s.firewall = New(client, gce.NewInstances(client, time.Nanosecond), options, firewall.Cluster{ID: "prod", Services: s.owners, DeleteOrphans: true})
	return nil
}

// owners returns the Services that would still have a finalizer.
func (s *schedule) owners() []firewall.Owner {
	var owners []firewall.Owner
	for uid := range s.wanted {
		if !s.gone[uid] {
			owners = append(owners, ownerOf(uid))
		}
	}
	return owners
}

// The names of a rule without a mark and of one of another cluster.
const (
	foreign = "hostport-foreign"
	theirs  = "hostport-theirs"
)

// theirMark is the mark of a rule that Services of another cluster share.
const theirMark = `{"hostport-ccm.io/cluster-id":"another","hostport-ccm.io/shared-by":"key-v4","hostport-ccm.io/open":{"abcdefgh":"udp:53"}}`

func newSchedule(seed uint64) (*schedule, error) {
	s := &schedule{rand: rand.New(rand.NewPCG(seed, 0)), wanted: map[types.UID]firewall.Spec{}, gone: map[types.UID]bool{}, frozen: map[types.UID][]firewall.Rule{}, nodeTags: []string{"node"}, tampered: map[string]bool{}}
	if s.rand.IntN(2) == 0 {
		s.tags = []string{"node"}
	}
	config := gcesim.Config{Settings: gcesim.Settings{OperationLatency: &metav1.Duration{}}}
	for _, name := range []string{"n1", "n2"} {
		config.Instances = append(config.Instances, gcesim.Instance{Name: name, Zone: zone, Tags: []string{"node"}, Interface: gcesim.Interface{NetworkIP: "10.0.0." + name[1:]}})
	}
	var err error
	if s.sim, err = gcesim.New(config, nil, s.observe); err != nil {
		return nil, err
	}
	if err := s.start(s.sim.Client().Transport); err != nil {
		return nil, err
	}
	mark := strings.ReplaceAll(theirMark, `"`, `\"`)
	if err := s.asAdministrator("POST", "", `{"name":"`+theirs+`","description":"`+mark+`","targetTags":["node"],"allowed":[{"IPProtocol":"udp"}]}`); err != nil {
		return nil, err
	}
	return s, s.asAdministrator("POST", "", `{"name":"`+foreign+`","description":"created by an administrator","targetTags":["node"],"allowed":[{"IPProtocol":"tcp"}]}`)
}

func runSchedule(seed uint64) error {
	s, err := newSchedule(seed)
	if err != nil {
		return err
	}
	for range 1 + s.rand.IntN(6) {
		s.addFaults()
		s.edit()
	}
	s.sim.ClearFaults()
	if err := s.requestsAreIdempotent(); err != nil {
		return err
	}
	for uid := range s.wanted {
		if err := s.try(context.Background(), uid); err != nil {
			return fmt.Errorf("after the faults: %w", err)
		}
	}
	if err := errors.Join(s.check(), s.tryReportMode()); err != nil {
		return err
	}
	for uid := range s.wanted {
		s.wanted[uid] = firewall.Spec{Owner: ownerOf(uid)}
		if err := s.try(context.Background(), uid); err != nil {
			return fmt.Errorf("deleting: %w", err)
		}
		if exists, err := s.firewall.Exists(context.Background(), ownerOf(uid)); exists || err != nil {
			return fmt.Errorf("after deleting: exists %v, %w", exists, err)
		}
	}
	return errors.Join(s.check(), s.broken)
}

func pick[T any](s *schedule, from ...T) T { return from[s.rand.IntN(len(from))] }

// addFaults adds some faults, and edits rules or nodes as an administrator would.
func (s *schedule) addFaults() {
	for range s.rand.IntN(3) {
		fault := gcesim.Fault{
			Kind:  pick(s, gcesim.FaultKinds[1:]...), // Without latency, which only costs time.
			Verb:  pick(s, "firewalls.*", "firewalls.list", "firewalls.insert", "firewalls.patch", "firewalls.delete", "globalOperations.*", "instances.*", "*"),
			Code:  pick(s, "INTERNAL_ERROR", "QUOTA_EXCEEDED", "RESOURCE_NOT_READY", "PERMISSIONS_ERROR", "RESOURCE_NOT_FOUND"),
			Count: s.rand.IntN(4),
		}
		must(s.sim.AddFault(fault))
	}
	switch s.rand.IntN(6) {
	case 0:
		s.tamper()
	case 1:
		s.tagNodes()
	}
}

// tagNodes changes the tags that all nodes have.
func (s *schedule) tagNodes() {
	s.nodeTags = pick(s, []string{"node"}, []string{"node", "web"})
	for _, name := range []string{"n1", "n2"} {
		must(s.sim.UpdateInstance(zone, name, func(in *gcesim.Instance) { in.Tags = append([]string{"of-" + name}, s.nodeTags...) }))
	}
}

// tamper edits or deletes a rule of ours as an administrator would.
func (s *schedule) tamper() {
	for _, rule := range s.sim.Snapshot().Firewalls {
		if rule.Name == foreign || rule.Name == theirs {
			continue
		}
		s.tampered[rule.Name] = true
		body := pick(s, "", `{"disabled":true}`, `{"priority":1}`, `{"targetTags":["elsewhere"]}`, `{"sourceTags":["x"]}`, `{"destinationRanges":null}`, `{"allowed":[{"IPProtocol":"udp"}]}`)
		method := "PATCH"
		if body == "" {
			method = "DELETE"
		}
		// It may fail because of a fault too.
		_ = s.asAdministrator(method, "/"+rule.Name, body)
		return
	}
}

func (s *schedule) asAdministrator(method, path, body string) error {
	r, err := http.NewRequest(method, "http://sim/compute/v1/projects/sandbox/global/firewalls"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	reply, err := s.sim.Client().Do(r)
	if err != nil {
		return err
	}
	return reply.Body.Close()
}

func ownerOf(uid types.UID) firewall.Owner {
	return firewall.Owner{ClusterID: "prod", Service: types.NamespacedName{Namespace: "web", Name: string("svc-" + uid)}, UID: uid}
}

// edit changes what one Service wants and applies it once, perhaps with a crash in
// the middle.
func (s *schedule) edit() {
	uid := pick[types.UID](s, "u1", "u2")
	spec := firewall.Spec{Owner: ownerOf(uid), Nodes: []string{node("n1"), node("n2")}, Addresses: addresses("10.0.0.1", "10.0.0.2", "2001:db8::1", "2001:db8::2")}
	if s.rand.IntN(3) == 0 {
		spec.Addresses, spec.NodeSelection = addresses("10.0.0.1", "2001:db8::1"), "one"
	}
	spec.Ports = s.somePorts()
	for range s.rand.IntN(4) {
		spec.SourceRanges = append(spec.SourceRanges, netip.MustParsePrefix(pick(s, "0.0.0.0/0", "192.0.2.0/24", "::/0", "2001:db8::/32")))
	}
	s.wanted[uid], s.gone[uid] = spec, false
	delete(s.frozen, uid)
	if s.rand.IntN(3) > 0 {
		_ = s.try(context.Background(), uid) // It may fail because of a fault.
		return
	}
	ctx, die := context.WithCancel(context.Background())
	defer die()
	transport := &crashing{RoundTripper: s.sim.Client().Transport, remaining: s.rand.IntN(6), afterwards: s.rand.IntN(2) == 0, die: die}
	must(s.start(transport))
	_ = s.try(ctx, uid)
	must(s.start(s.sim.Client().Transport))
}

func (s *schedule) somePorts() []firewall.Port {
	var ports []firewall.Port
	for range s.rand.IntN(4) {
		ports = append(ports, firewall.Port{Protocol: pick(s, v1.ProtocolTCP, v1.ProtocolUDP), Port: uint16(80 + s.rand.IntN(4))})
	}
	return ports
}

// must is for errors that can only be mistakes of this test.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// try does for a Service what the controller does.
func (s *schedule) try(ctx context.Context, uid types.UID) error {
	spec := s.wanted[uid]
	if len(spec.Ports) == 0 && !spec.Report {
		err := s.firewall.Delete(ctx, ownerOf(uid))
		s.gone[uid] = err == nil
		return err
	}
	_, err := s.firewall.Ensure(ctx, spec)
	var manual *firewall.ManualChangeError
	if spec.Report && errors.As(err, &manual) {
		return nil
	}
	return err
}
