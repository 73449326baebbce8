package chaos

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

var (
	start    = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	target   = Target{"web", "203.0.113.11", "tcp"}
	errAsked = errors.New("no answer")
)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

// attempts returns a request in each second; those in failed seconds fail.
func attempts(seconds int, failed ...int) []Attempt {
	var all []Attempt
	for s := range seconds {
		a := Attempt{From: at(float64(s))}
		if slices.Contains(failed, s) {
			a.Err = errAsked
		}
		all = append(all, a)
	}
	return all
}

func TestOutages(t *testing.T) {
	always := []Change{{at(-1), []string{target.Address}}}
	for name, c := range map[string]struct {
		attempts []Attempt
		changes  []Change
		want     []Outage
	}{
		"all answered":                            {attempts(10), always, nil},
		"one fails":                               {attempts(10, 3), always, []Outage{{From: at(3), To: at(4), Requests: 1}}},
		"two in a row are one":                    {attempts(10, 3, 4), always, []Outage{{From: at(3), To: at(5), Requests: 2}}},
		"two apart are two":                       {attempts(10, 3, 5), always, []Outage{{From: at(3), To: at(4), Requests: 1}, {From: at(5), To: at(6), Requests: 1}}},
		"the first and the last":                  {attempts(3, 0, 2), always, []Outage{{From: at(0), To: at(1), Requests: 1}, {From: at(2), To: at(20), Requests: 1}}},
		"never published":                         {attempts(10, 3), []Change{{at(-1), []string{"203.0.113.12"}}}, nil},
		"nothing known of the status":             {attempts(10, 3), nil, nil},
		"until it is withdrawn":                   {attempts(10, 3, 4, 5), append(always, Change{at(4.5), nil}), []Outage{{From: at(3), To: at(4.5), Requests: 2}}},
		"withdrawn before":                        {attempts(10, 3, 4), append(always, Change{at(2.5), nil}), nil},
		"from when it is published":               {attempts(10, 3, 4), []Change{{at(-1), nil}, {at(3.5), []string{target.Address}}}, []Outage{{From: at(4), To: at(5), Requests: 1}}},
		"withdrawn and published again meanwhile": {attempts(10, 1, 2, 3, 4), append(always, Change{at(1.5), nil}, Change{at(3.5), []string{target.Address}}), []Outage{{From: at(1), To: at(1.5), Requests: 1}, {From: at(4), To: at(5), Requests: 1}}},
		"another change of the status":            {attempts(10, 3, 4), append(always, Change{at(3.5), []string{"203.0.113.12", target.Address}}), []Outage{{From: at(3), To: at(5), Requests: 2}}},
	} {
		got := Outages(target, c.attempts, c.changes, at(20))
		for i := range c.want {
			c.want[i].Target, c.want[i].Err = target, errAsked
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateErrors()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// No second with a failed request to a published address is left out, and none with an answer counts.
func TestOutagesCoverTheFailedRequests(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		failed := rapid.SliceOf(rapid.IntRange(0, 29)).Draw(t, "failed")
		toggles := rapid.SliceOfDistinct(rapid.IntRange(0, 29), func(s int) int { return s }).Draw(t, "toggles")
		slices.Sort(toggles)
		var changes []Change
		is, publishedIn := false, map[int]bool{}
		for second := range 30 {
			if slices.Contains(toggles, second) {
				is = !is
				c := Change{At: at(float64(second) - 0.25)}
				if is {
					c.Addresses = []string{target.Address}
				}
				changes = append(changes, c)
			}
			publishedIn[second] = is
		}
		all := Outages(target, attempts(30, failed...), changes, at(30))
		for second := range 30 {
			moment := at(float64(second))
			covered := slices.ContainsFunc(all, func(o Outage) bool { return !moment.Before(o.From) && moment.Before(o.To) })
			if want := publishedIn[second] && slices.Contains(failed, second); covered != want {
				t.Fatalf("second %d: covered %v, want %v; outages %v, changes %v", second, covered, want, all, changes)
			}
		}
	})
}

func TestEpisodeOf(t *testing.T) {
	episodes := []Episode{{From: at(0), To: at(10)}, {From: at(10), To: at(20)}, {From: at(30), To: at(40)}}
	for second, want := range map[float64]int{-1: -1, 0: 0, 5: 0, 10: 1, 15: 1, 20: 1, 25: -1, 30: 2, 40: 2, 41: -1} {
		if got := EpisodeOf(Outage{From: at(second)}, episodes); got != want {
			t.Errorf("an outage at second %v is in episode %d, want %d", second, got, want)
		}
	}
}

func TestViolations(t *testing.T) {
	result := func(limit Limit, outages ...Outage) Result {
		for i := range outages {
			outages[i].Target, outages[i].Err = target, errAsked
		}
		return Result{
			Episodes: []Episode{{Name: "fault", From: at(0), To: at(100), Limit: limit}},
			Outages:  map[int][]Outage{0: outages}, Proxied: func(string) bool { return true },
		}
	}
	refused := func(from, to float64) Outage { return Outage{From: at(from), To: at(to), Refused: true} }
	silent := func(from, to float64) Outage { return Outage{From: at(from), To: at(to)} }
	ten := Limit{Proxy: 10 * time.Second}
	for name, c := range map[string]struct {
		result Result
		want   bool
	}{
		"no outage":                       {result(ten), false},
		"as long as promised":             {result(ten, refused(0, 10)), false},
		"a slow machine":                  {result(ten, refused(0, 30)), false},
		"too long":                        {result(ten, refused(0, 31)), true},
		"together too long":               {result(ten, refused(0, 20), refused(40, 51)), true},
		"refused where nothing may fail":  {result(Limit{}, refused(0, 0.1)), true},
		"not answered, on a slow machine": {result(Limit{}, silent(0, 4)), false},
		"not answered for long":           {result(Limit{}, silent(0, 6)), true},
		"another datapath's limit":        {result(Limit{Direct: time.Minute}, refused(0, 1)), true},
		"without a fault":                 {Result{Outages: map[int][]Outage{-1: {refused(0, 1)}}, Proxied: func(string) bool { return true }}, true},
	} {
		if got := c.result.Violations(3, 5*time.Second); (len(got) > 0) != c.want {
			t.Errorf("%s: got %q, want some: %v", name, got, c.want)
		}
	}
	got := result(ten, refused(0, 31)).Violations(3, 0)[0]
	for _, part := range []string{"web", target.Address, "31.0s", "10s", "fault", errAsked.Error()} {
		if !strings.Contains(got, part) {
			t.Errorf("%q is not in %q", part, got)
		}
	}
}

func TestHistogramCountsEachOutageOnce(t *testing.T) {
	one := Outage{Target: Target{Service: "web"}, From: at(1), To: at(4)}
	long := Outage{Target: Target{Service: "web"}, From: at(1), To: at(1 + 90*60)}
	limit := Limit{Proxy: 2 * time.Minute, Direct: 3 * time.Second}
	got := Result{
		Episodes: []Episode{{Name: "first", Limit: limit}, {Name: "second", Limit: limit}, {Name: "first", Limit: limit}},
		Outages:  map[int][]Outage{0: {one, one}, 2: {long}}, Proxied: func(s string) bool { return s == "web" },
	}.Histogram()
	var fields [][]string
	for line := range strings.Lines(got) {
		fields = append(fields, strings.Fields(line))
	}
	want := [][]string{
		strings.Fields("times datapath ≤1s ≤2s ≤5s ≤10s ≤30s ≤1m more longest promised fault"),
		strings.Fields("2 proxy . . 2 . . . 1 5400.0s 2m first"),
		strings.Fields("2 direct . . . . . . . 0.0s 3s first"),
		strings.Fields("1 proxy . . . . . . . 0.0s 2m second"),
		strings.Fields("1 direct . . . . . . . 0.0s 3s second"),
	}
	if diff := cmp.Diff(want, fields); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestShuffleGivesEachOnceAndRepeatsItself(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed, size := rapid.Uint64().Draw(t, "seed"), rapid.IntRange(1, 30).Draw(t, "size")
		one, two := NewShuffle(seed, size), NewShuffle(seed, size)
		for round := range 3 {
			given := map[int]bool{}
			for range size {
				next := one.Next()
				if next != two.Next() {
					t.Fatal("equal seeds give different numbers")
				}
				given[next] = true
			}
			if len(given) != size {
				t.Fatal(fmt.Sprint("round ", round, " gave ", given))
			}
		}
	})
}
