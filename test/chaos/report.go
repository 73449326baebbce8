package chaos

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what clients noticed.
type Result struct {
	Episodes []Episode
	// Outages by the index of the episode in which they began; -1 for none.
	Outages map[int][]Outage
	// Proxied reports whether a Service is served by proxies.
	Proxied func(service string) bool
}

// limit returns how long a target may fail to answer in an episode.
func (r Result) limit(episode int, service string) time.Duration {
	switch {
	case episode < 0:
		return 0
	case r.Proxied(service):
		return r.Episodes[episode].Limit.Proxy
	}
	return r.Episodes[episode].Limit.Direct
}

// Violations describes, per episode and target, outages that together lasted for longer than the limit
// of the episode times slowest, the factor of the slowest machine, and by tolerance longer if no request
// was refused: the answers may have been late.
func (r Result) Violations(slowest int, tolerance time.Duration) []string {
	var all []string
	for _, episode := range slices.Sorted(maps.Keys(r.Outages)) {
		byTarget := map[Target][]Outage{}
		for _, o := range r.Outages[episode] {
			byTarget[o.Target] = append(byTarget[o.Target], o)
		}
		for target, outages := range byTarget {
			limit := r.limit(episode, target.Service)
			allowed := limit * time.Duration(slowest)
			if !slices.ContainsFunc(outages, func(o Outage) bool { return o.Refused }) {
				allowed += tolerance
			}
			if total(outages) > allowed {
				all = append(all, fmt.Sprintf("%s: %s, while published, did not answer for %.1fs, where %s promises %s at most:%s",
					r.name(episode), target, total(outages).Seconds(), r.source(episode), limit, list(outages)))
			}
		}
	}
	slices.Sort(all)
	return all
}

func total(outages []Outage) (sum time.Duration) {
	for _, o := range outages {
		sum += o.Duration()
	}
	return sum
}

func list(outages []Outage) string {
	var b strings.Builder
	for _, o := range outages {
		fmt.Fprintf(&b, " %.1fs from %s, %d requests, the first: %v;", o.Duration().Seconds(), o.From.Format(time.StampMilli), o.Requests, o.Err)
	}
	return strings.TrimSuffix(b.String(), ";")
}

// String returns Service, address and protocol.
func (t Target) String() string {
	return fmt.Sprintf("Service %s at %s/%s", t.Service, t.Address, t.Protocol)
}

func (r Result) source(episode int) string {
	if episode < 0 || r.Episodes[episode].Limit.Source == "" {
		return "the documentation"
	}
	return r.Episodes[episode].Limit.Source
}

func (r Result) name(episode int) string {
	if episode < 0 {
		return "no fault"
	}
	return r.Episodes[episode].Name
}

// upperBounds are those of the columns of a histogram. A last column has what is longer.
var upperBounds = []time.Duration{time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute}

// Histogram returns a table: per kind of episode and datapath, how often it occurred, how many outages
// there were by their length, the longest, and what is promised.
func (r Result) Histogram() string {
	type row struct {
		name     string
		datapath string
	}
	episodes, counts := map[string]int{}, map[row][]int{}
	longest, limits := map[row]time.Duration{}, map[row]time.Duration{}
	for i, e := range r.Episodes {
		episodes[e.Name]++
		limits[row{e.Name, "proxy"}], limits[row{e.Name, "direct"}] = e.Limit.Proxy, e.Limit.Direct
		for _, datapath := range []string{"proxy", "direct"} {
			if counts[row{e.Name, datapath}] == nil {
				counts[row{e.Name, datapath}] = make([]int, len(upperBounds)+1)
			}
		}
		for _, o := range r.Outages[i] {
			at := row{e.Name, "direct"}
			if r.Proxied(o.Service) {
				at.datapath = "proxy"
			}
			bucket := slices.IndexFunc(upperBounds, func(upper time.Duration) bool { return o.Duration() <= upper })
			if bucket < 0 {
				bucket = len(upperBounds)
			}
			counts[at][bucket]++
			longest[at] = max(longest[at], o.Duration())
		}
	}
	var b strings.Builder
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(table, "times\tdatapath\t")
	for _, upper := range upperBounds {
		fmt.Fprintf(table, "≤%s\t", short(upper))
	}
	fmt.Fprint(table, "more\tlongest\tpromised\t  fault\n")
	for _, at := range slices.SortedFunc(maps.Keys(counts), func(a, b row) int {
		return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(b.datapath, a.datapath))
	}) {
		fmt.Fprintf(table, "%d\t%s\t", episodes[at.name], at.datapath)
		for _, n := range counts[at] {
			fmt.Fprintf(table, "%s\t", orDot(n))
		}
		fmt.Fprintf(table, "%.1fs\t%s\t  %s\n", longest[at].Seconds(), short(limits[at]), at.name)
	}
	table.Flush()
	return b.String()
}

func orDot(n int) string {
	if n == 0 {
		return "."
	}
	return fmt.Sprint(n)
}

// short returns whole seconds or minutes.
func short(d time.Duration) string {
	if d >= time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}
