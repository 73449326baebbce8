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

// world plays nodes to a judge, a round a second.
type world struct {
	judge *judge
	now   time.Time
	// silent nodes do not answer.
	silent map[string]bool
	leases map[string]string
	// unread: the API server gives no Lease.
	unread bool
	down   map[string]bool
}

func newWorld(nodes ...string) *world {
	w := &world{judge: newJudge(), now: time.Unix(1e9, 0), silent: map[string]bool{}, leases: map[string]string{}, down: map[string]bool{}}
	for _, node := range nodes {
		w.leases[node] = "1"
	}
	return w
}

// round returns the verdicts of the next second, as "-node" and "+node".
func (w *world) round() []string {
	w.now = w.now.Add(time.Second)
	answers := map[string]bool{}
	for node := range w.leases {
		answers[node] = !w.silent[node]
	}
	read := map[string]string{}
	for _, node := range w.judge.hear(w.now, answers) {
		if !w.unread {
			read[node] = w.leases[node]
		}
	}
	var list []string
	for _, v := range w.judge.decide(w.now, read) {
		w.down[v.Node] = v.Down
		list = append(list, map[bool]string{true: "-", false: "+"}[v.Down]+v.Node)
	}
	return list
}

func (w *world) rounds(n int) []string {
	var list []string
	for range n {
		list = append(list, w.round()...)
	}
	return list
}

func (w *world) silence(nodes ...string) {
	w.silent = map[string]bool{}
	for _, node := range nodes {
		w.silent[node] = true
	}
}

func (w *world) renew(nodes ...string) {
	for _, node := range nodes {
		w.leases[node] += "'"
	}
}

// story is what happens to nodes, and the verdicts on them afterwards.
type story struct {
	nodes []string
	play  func(w *world)
	want  []string
}

func tell(t *testing.T, stories map[string]story) {
	t.Helper()
	for name, c := range stories {
		t.Run(name, func(t *testing.T) {
			w := newWorld(c.nodes...)
			w.rounds(2)
			c.play(w)
			if diff := cmp.Diff(c.want, w.rounds(20)); diff != "" {
				t.Errorf("verdicts differ (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerdictsOnNodesThatAreSilent(t *testing.T) {
	tell(t, map[string]story{
		"a node that dies is down":                        {[]string{"a", "b", "c"}, func(w *world) { w.silence("b") }, []string{"-b"}},
		"one of two that dies is down":                    {[]string{"a", "b"}, func(w *world) { w.silence("b") }, []string{"-b"}},
		"two of four that die are down":                   {[]string{"a", "b", "c", "d"}, func(w *world) { w.silence("b", "c") }, []string{"-b", "-c"}},
		"with most nodes silent it is we who are cut off": {[]string{"a", "b", "c"}, func(w *world) { w.silence("b", "c") }, nil},
		"the only node is never down":                     {[]string{"a"}, func(w *world) { w.silence("a") }, nil},
		"a node that was never reached is never down": {[]string{"a", "b"}, func(w *world) {
			w.silence("new")
			w.leases["new"] = "1"
		}, nil},
		"nodes never reached do not make us think that we are cut off": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b", "x", "y", "z")
			w.leases["x"], w.leases["y"], w.leases["z"] = "1", "1", "1"
		}, []string{"-b"}},
		"an answer ends the silence": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.rounds(5)
			w.silence()
			w.rounds(1)
			w.silence("b")
			w.rounds(5)
			w.silence()
		}, nil},
		"a node whose end Kubernetes has noticed is none of ours": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.rounds(5)
			delete(w.leases, "b")
		}, nil},
		"a second death after the first is left to Kubernetes if then most are silent": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.rounds(2)
			w.silence("b", "c")
		}, nil},
	})
}

func TestVerdictsGoByLeasesToo(t *testing.T) {
	tell(t, map[string]story{
		"without its Lease nothing is known of a node": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.unread = true
		}, nil},
		"a node without a Lease is never down": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.leases["b"] = ""
		}, nil},
		"a node that renews its Lease lives, though not for us": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.rounds(4)
			w.renew("b")
		}, nil},
		"a Lease is watched for as long when it could not be read at first": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b")
			w.unread = true
			w.rounds(20)
			w.unread = false
			w.rounds(4)
			w.renew("b")
		}, nil},
		"and when most nodes were silent at first": {[]string{"a", "b", "c"}, func(w *world) {
			w.silence("b", "c")
			w.rounds(20)
			w.silence("b")
			w.rounds(4)
			w.renew("b")
		}, nil},
	})
}

func TestANodeIsDownInTimeAndBackWhenItsKubeletIs(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.rounds(1)
	w.silence("b")
	if got := w.rounds(5); got != nil {
		t.Errorf("a verdict too soon: %v", got)
	}
	if got := w.round(); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("after %s: got %v", after, got)
	}
	w.silence()
	if got := w.rounds(20); got != nil {
		t.Errorf("it is back with its kernel, before its kubelet: %v", got)
	}
	w.renew("b")
	if got := w.rounds(settling); got != nil {
		t.Errorf("it is back before it settled: %v", got)
	}
	if got := w.round(); !slices.Equal(got, []string{"+b"}) {
		t.Errorf("it is not back: %v", got)
	}
	w.silence("b")
	if got := w.rounds(10); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("it dies again: got %v", got)
	}
}

func TestANodeThatOnlyWeCannotReachIsOutAtMostOnce(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.rounds(1)
	w.silence("b")
	got := w.rounds(8)
	for range 20 {
		w.renew("b")
		got = append(got, w.rounds(10)...)
	}
	if diff := cmp.Diff([]string{"-b", "+b"}, got); diff != "" {
		t.Errorf("verdicts differ (-want +got):\n%s", diff)
	}
	w.silence()
	w.rounds(1)
	w.silence("b")
	if got := w.rounds(8); !slices.Equal(got, []string{"-b"}) {
		t.Errorf("it answered, and dies: got %v", got)
	}
}

func TestAJudgeThatStoodStillDoesNotCountTheTime(t *testing.T) {
	w := newWorld("a", "b", "c")
	w.rounds(1)
	w.now = w.now.Add(time.Hour)
	w.silence("b")
	if got := w.rounds(fewest - 1); got != nil {
		t.Errorf("verdicts %v after %d rounds", got, fewest-1)
	}
}

func TestStates(t *testing.T) {
	for want, r := range map[state]record{
		unreached: {missing: 3},
		answering: {answered: time.Unix(1, 0)},
		silent:    {answered: time.Unix(1, 0), missing: 1},
		down:      {answered: time.Unix(1, 0), down: true},
	} {
		if got := r.state(); got != want {
			t.Errorf("%+v: got %s, want %s", r, got, want)
		}
	}
}

// Whatever happens: no verdict without all its evidence, never one while most
// nodes are silent, verdicts alternate, and once all is well nobody is down.
func TestJudgement(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var nodes []string
		for i := range rapid.IntRange(1, 7).Draw(t, "nodes") {
			nodes = append(nodes, fmt.Sprint("n", i))
		}
		w := newWorld(nodes...)
		reached, quiet := map[string]bool{}, map[string]int{}
		for range rapid.IntRange(1, 60).Draw(t, "rounds") {
			if rapid.IntRange(0, 4).Draw(t, "change") == 0 {
				w.silence(rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID[string]).Draw(t, "silent")...)
				w.unread = rapid.IntRange(0, 5).Draw(t, "unread") == 0
			}
			some := rapid.SliceOfDistinct(rapid.SampledFrom(nodes), rapid.ID[string]).Draw(t, "renewing")
			if rapid.IntRange(0, 5).Draw(t, "renew") > 0 {
				some = nil
			}
			w.renew(some...)
			for _, node := range nodes {
				if !w.silent[node] {
					reached[node], quiet[node] = true, 0
					continue
				}
				quiet[node]++
			}
			before := maps.Clone(w.down)
			balance := 0
			for node := range reached {
				balance += map[bool]int{true: -1, false: 1}[w.silent[node] || before[node]]
			}
			for _, v := range w.round() {
				node := v[1:]
				if v[0] == '+' != before[node] {
					t.Fatalf("%s although down was %t", v, before[node])
				}
				if v[0] == '-' && (!reached[node] || quiet[node] <= int(after/time.Second) || w.unread || balance < 0) {
					t.Fatalf("%s: reached %t, silent for %d rounds, Leases unread %t, balance %d", v, reached[node], quiet[node], w.unread, balance)
				}
			}
		}
		w.silence()
		w.unread = false
		w.rounds(1)
		w.renew(nodes...)
		w.rounds(settling + 1)
		for node, d := range w.down {
			if d {
				t.Fatalf("%s is still down", node)
			}
		}
	})
}
