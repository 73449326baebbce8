package failover

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// simulation feeds a detector with the observations of nodes, one round a second.
type simulation struct {
	detector     *detector
	now          time.Time
	unresponsive map[string]bool
	refusing     map[string]bool // These answer with a refusal.
	leases       map[string]string
	unreadable   bool // No Lease can be read.
	down         map[string]bool
}

func newSimulation(nodes ...string) *simulation {
	s := &simulation{detector: newDetector(), now: time.Unix(1e9, 0), unresponsive: map[string]bool{}, refusing: map[string]bool{}, leases: map[string]string{}, down: map[string]bool{}}
	for _, node := range nodes {
		s.leases[node] = "1"
	}
	return s
}

// round returns the transitions of the next second, as "-node" and "+node".
func (s *simulation) round() []string {
	s.now = s.now.Add(time.Second)
	answers := map[string]answer{}
	for node := range s.leases {
		switch {
		case s.unresponsive[node]:
			answers[node] = noAnswer
		case s.refusing[node]:
			answers[node] = refused
		default:
			answers[node] = accepted
		}
	}
	read := map[string]string{}
	for _, node := range s.detector.observeProbes(s.now, answers) {
		if !s.unreadable {
			read[node] = s.leases[node]
		}
	}
	var list []string
	for _, t := range s.detector.observeLeases(s.now, read) {
		s.down[t.Node] = t.Down
		list = append(list, map[bool]string{true: "-", false: "+"}[t.Down]+t.Node)
	}
	return list
}

func (s *simulation) rounds(n int) []string {
	var list []string
	for range n {
		list = append(list, s.round()...)
	}
	return list
}

// setUnresponsive has exactly these nodes answer no probes.
func (s *simulation) setUnresponsive(nodes ...string) {
	s.unresponsive = map[string]bool{}
	for _, node := range nodes {
		s.unresponsive[node] = true
	}
}

func (s *simulation) renew(nodes ...string) {
	for _, node := range nodes {
		s.leases[node] += "'"
	}
}

// scenario is what happens to nodes, and the transitions wanted afterwards.
type scenario struct {
	nodes  []string
	happen func(s *simulation)
	want   []string
}

func runScenarios(t *testing.T, scenarios map[string]scenario) {
	t.Helper()
	for name, c := range scenarios {
		t.Run(name, func(t *testing.T) {
			s := newSimulation(c.nodes...)
			s.rounds(2)
			c.happen(s)
			if diff := cmp.Diff(c.want, s.rounds(20)); diff != "" {
				t.Errorf("transitions differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTransitionsOfUnresponsiveNodes(t *testing.T) {
	runScenarios(t, map[string]scenario{
		"a node that dies goes down":                          {[]string{"a", "b", "c"}, func(s *simulation) { s.setUnresponsive("b") }, []string{"-b"}},
		"one of two nodes that dies goes down":                {[]string{"a", "b"}, func(s *simulation) { s.setUnresponsive("b") }, []string{"-b"}},
		"two of four nodes that die go down":                  {[]string{"a", "b", "c", "d"}, func(s *simulation) { s.setUnresponsive("b", "c") }, []string{"-b", "-c"}},
		"no node goes down while most nodes are unresponsive": {[]string{"a", "b", "c"}, func(s *simulation) { s.setUnresponsive("b", "c") }, nil},
		"the only node never goes down":                       {[]string{"a"}, func(s *simulation) { s.setUnresponsive("a") }, nil},
		"a node that never answered never goes down": {[]string{"a", "b"}, func(s *simulation) {
			s.setUnresponsive("new")
			s.leases["new"] = "1"
		}, nil},
		"nodes that never answered do not count as unresponsive": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b", "x", "y", "z")
			s.leases["x"], s.leases["y"], s.leases["z"] = "1", "1", "1"
		}, []string{"-b"}},
		"an answer starts the count again": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.rounds(5)
			s.setUnresponsive()
			s.rounds(1)
			s.setUnresponsive("b")
			s.rounds(5)
			s.setUnresponsive()
		}, nil},
		"a node that Kubernetes sets NotReady is forgotten": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.rounds(5)
			delete(s.leases, "b")
		}, nil},
		"no node goes down if another dies soon after and most are unresponsive": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.rounds(2)
			s.setUnresponsive("b", "c")
		}, nil},
	})
}

func TestTransitionsDependOnLeases(t *testing.T) {
	runScenarios(t, map[string]scenario{
		"a node whose Lease cannot be read never goes down": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.unreadable = true
		}, nil},
		"a node without a Lease never goes down": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.leases["b"] = ""
		}, nil},
		"a node that renews its Lease stays up": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.rounds(4)
			s.renew("b")
		}, nil},
		"the Lease has to stay the same as long when it could not be read at first": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b")
			s.unreadable = true
			s.rounds(20)
			s.unreadable = false
			s.rounds(4)
			s.renew("b")
		}, nil},
		"the Lease has to stay the same as long when most nodes were unresponsive at first": {[]string{"a", "b", "c"}, func(s *simulation) {
			s.setUnresponsive("b", "c")
			s.rounds(20)
			s.setUnresponsive("b")
			s.rounds(4)
			s.renew("b")
		}, nil},
	})
}

func TestANodeGoesDownInTimeAndComesUpWithItsKubelet(t *testing.T) {
	s := newSimulation("a", "b", "c")
	s.rounds(1)
	s.setUnresponsive("b")
	if got := s.rounds(5); got != nil {
		t.Errorf("a transition too soon: %v", got)
	}
	if got := s.round(); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("after %s: got %v", leaseUnchanged, got)
	}
	s.setUnresponsive()
	if got := s.rounds(20); got != nil {
		t.Errorf("it comes up with its kernel, before its kubelet: %v", got)
	}
	s.renew("b")
	if got := s.rounds(recoveryRounds); got != nil {
		t.Errorf("it comes up before its kubelet had time to report its pods: %v", got)
	}
	if got := s.round(); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("it does not come up: %v", got)
	}
	s.setUnresponsive("b")
	if got := s.rounds(10); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("it dies again: got %v", got)
	}
}

func TestANodeComesUpWithItsKubeProxy(t *testing.T) {
	died := func() *simulation {
		s := newSimulation("a", "b", "c")
		s.rounds(1)
		s.setUnresponsive("b")
		if got := s.rounds(10); !slices.Equal(got, []string{"-b"}) {
			t.Errorf("it does not go down: %v", got)
		}
		s.setUnresponsive()
		s.refusing["b"] = true
		s.renew("b")
		return s
	}
	s := died()
	if got := s.rounds(maxRecoveryRounds); got != nil {
		t.Errorf("it comes up before its kube-proxy: %v", got)
	}
	if got := s.round(); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("it does not come up although its kubelet has long been there: %v", got)
	}

	s = died()
	s.rounds(10)
	delete(s.refusing, "b")
	if got := s.rounds(recoveryRounds); got != nil {
		t.Errorf("it comes up before its kube-proxy had time to write its rules: %v", got)
	}
	if got := s.round(); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("it does not come up with its kube-proxy: %v", got)
	}

	s = died()
	s.rounds(10)
	s.setUnresponsive("b")
	s.rounds(1)
	s.setUnresponsive()
	if got := s.rounds(10); got != nil {
		t.Errorf("it comes up as a probe is lost: %v", got)
	}
	s.setUnresponsive("b")
	if got := s.rounds(2 * maxRecoveryRounds); got != nil {
		t.Errorf("it dies again before its kube-proxy listens, and comes up: %v", got)
	}
	s.renew("b")
	if got := s.rounds(recoveryRounds + 1); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("it renews its Lease and cannot be reached from here, and does not come up: %v", got)
	}
}

func TestANodeWithoutKubeProxyComesUpWithItsKubelet(t *testing.T) {
	s := newSimulation("a", "b", "c")
	s.rounds(3)
	s.refusing["b"] = true // kube-proxy was removed.
	s.rounds(1)
	s.setUnresponsive("b")
	s.rounds(10)
	s.setUnresponsive()
	s.renew("b")
	if got := s.rounds(recoveryRounds + 1); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("transitions %v", got)
	}
}

func TestAnAliveNodeThatCannotBeReachedGoesDownOnce(t *testing.T) {
	s := newSimulation("a", "b", "c")
	s.rounds(1)
	s.setUnresponsive("b")
	got := s.rounds(8)
	for range 20 {
		s.renew("b")
		got = append(got, s.rounds(10)...)
	}
	if diff := cmp.Diff([]string{"-b", "+b"}, got); diff != "" {
		t.Errorf("transitions differ (-want +got):\n%s", diff)
	}
	s.setUnresponsive()
	s.rounds(1)
	s.setUnresponsive("b")
	if got := s.rounds(8); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("it answered, and dies: got %v", got)
	}
}

func TestTimeInWhichTheProcessWasSuspendedDoesNotCount(t *testing.T) {
	s := newSimulation("a", "b", "c")
	s.rounds(1)
	s.now = s.now.Add(time.Hour)
	s.setUnresponsive("b")
	if got := s.rounds(minMissedProbes - 1); got != nil {
		t.Errorf("transitions %v after %d rounds", got, minMissedProbes-1)
	}
}

func TestStates(t *testing.T) {
	for want, o := range map[state]observed{
		unreached:    {missedProbes: 3},
		answering:    {lastAnswer: time.Unix(1, 0)},
		unresponsive: {lastAnswer: time.Unix(1, 0), missedProbes: 1},
		down:         {lastAnswer: time.Unix(1, 0), down: true},
	} {
		if got := o.state(); got != want {
			t.Errorf("%+v: got %s, want %s", o, got, want)
		}
	}
}

// For any sequence of events: a node goes down only with all the evidence and never while most
// nodes are unresponsive, it goes down and comes up in turn, and it is up after it recovers.
func TestDetectorInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []string
		for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
			nodes = append(nodes, fmt.Sprint("n", i))
		}
		s := newSimulation(nodes...)
		reached, missed := map[string]bool{}, map[string]int{}
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
				s.setUnresponsive(rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID[string]).Draw(t, "unresponsive")...)
				s.unreadable = rapid.IntRange(0, 5).Draw(t, "unreadable") == 0
				s.refusing = map[string]bool{}
				for _, node := range rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID[string]).Draw(t, "refusing") {
					s.refusing[node] = true
				}
			}
			some := rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID[string]).Draw(t, "renewing")
			if rapid.IntRange(0, 5).Draw(t, "renew") > 0 {
				some = nil
			}
			s.renew(some...)
			for _, node := range nodes {
				if !s.unresponsive[node] {
					reached[node], missed[node] = true, 0
					continue
				}
				missed[node]++
			}
			before := maps.Clone(s.down)
			balance := 0
			for node := range reached {
				balance += map[bool]int{true: -1, false: 1}[s.unresponsive[node] || before[node]]
			}
			for _, transition := range s.round() {
				node := transition[1:]
				if transition[0] == '+' != before[node] {
					t.Fatalf("%s although down was %t", transition, before[node])
				}
				if transition[0] == '-' && (!reached[node] || missed[node] <= int(leaseUnchanged/time.Second) || s.unreadable || balance < 0) {
					t.Fatalf("%s: reached %t, %d probes missed, Leases unreadable %t, balance %d", transition, reached[node], missed[node], s.unreadable, balance)
				}
			}
		}
		s.setUnresponsive()
		s.unreadable, s.refusing = false, map[string]bool{}
		s.rounds(1)
		s.renew(nodes...)
		s.rounds(recoveryRounds + 1)
		for node, d := range s.down {
			if d {
				t.Fatalf("%s is still down", node)
			}
		}
	})
}
