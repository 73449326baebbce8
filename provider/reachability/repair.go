package reachability

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

const (
	// again is how long a place is left alone after its proxy was replaced.
	again = time.Hour
	// settling is how long a new proxy that is Ready may take until packets reach it.
	settling = 30 * time.Second
	// maxReplacing is how long a replacement may take in all: a proxy drains first.
	maxReplacing = 10 * time.Minute
)

// repairs decides which proxies to replace, since a network plugin writes the rules of a pod only when
// it starts. One is replaced at a time in the whole cluster. If that does not help, no other proxy of
// the Service is, until packets reach one that they did not reach: the network may not support host
// ports at all, or the prober may be the one that is cut off.
type repairs struct {
	current *repair
	// started is when the proxy at a place was last replaced.
	started map[place]time.Time
	// useless are the Services whose last replacement did not help.
	useless map[types.UID]bool
}

// repair is a replacement under way.
type repair struct {
	place
	pod     types.UID
	started time.Time
	// ready is when the new proxy was first seen Ready.
	ready time.Time
}

func newRepairs() *repairs {
	return &repairs{started: map[place]time.Time{}, useless: map[types.UID]bool{}}
}

// proxyState is a proxy as far as it matters for repairs.
type proxyState struct {
	pod   types.UID
	ready bool
	// unreachable reports that packets do not reach it, in some IP family, and answers that they do in
	// another, as far as known.
	unreachable, answers bool
	// withdrawn reports that the status of the Service shows no address of the node in the families in
	// which packets do not reach the proxy.
	withdrawn bool
}

// next takes all proxies, and returns the place whose proxy is to be replaced now, if any.
func (r *repairs) next(now time.Time, proxies map[place]proxyState) (where place, found bool) {
	r.follow(now, proxies)
	maps.DeleteFunc(r.started, func(_ place, started time.Time) bool { return now.Sub(started) >= again })
	if r.current != nil {
		return place{}, false
	}
	for _, where := range slices.SortedFunc(maps.Keys(proxies), comparePlaces) {
		p := proxies[where]
		if _, recently := r.started[where]; !p.unreachable || !p.ready || recently || r.useless[where.service] {
			continue
		}
		if p.withdrawn && anotherNodeIsIntact(proxies, where) || !anyAnswers(proxies, where.service) {
			r.current = &repair{place: where, pod: p.pod, started: now}
			r.started[where] = now
			return where, true
		}
	}
	return place{}, false
}

// none reports whether there is no replacement under way, and none that did not help.
func (r *repairs) none() bool { return r.current == nil && len(r.useless) == 0 }

// abandon ends the replacement under way, as the proxy could not be deleted.
func (r *repairs) abandon() { r.current = nil }

// follow ends the replacement under way if the new proxy is reached, or will not be.
func (r *repairs) follow(now time.Time, proxies map[place]proxyState) {
	maps.DeleteFunc(r.useless, func(service types.UID, _ bool) bool { return !anyProxy(proxies, service, isUnreachable) })
	if r.current == nil {
		return
	}
	p := proxies[r.current.place]
	replaced := p.ready && p.pod != r.current.pod
	if replaced && r.current.ready.IsZero() {
		r.current.ready = now
	}
	switch {
	case replaced && !p.unreachable, !anyProxy(proxies, r.current.service, func(proxyState) bool { return true }):
		r.current = nil
	case replaced && now.Sub(r.current.ready) >= settling, now.Sub(r.current.started) >= maxReplacing:
		r.useless[r.current.service] = true
		r.current = nil
	}
}

func isUnreachable(p proxyState) bool { return p.unreachable }

// anyProxy reports whether ok holds for any proxy of a Service.
func anyProxy(proxies map[place]proxyState, service types.UID, ok func(proxyState) bool) bool {
	for where, p := range proxies {
		if where.service == service && ok(p) {
			return true
		}
	}
	return false
}

func anyAnswers(proxies map[place]proxyState, service types.UID) bool {
	return anyProxy(proxies, service, func(p proxyState) bool { return p.ready && p.answers })
}

// anotherNodeIsIntact reports whether all proxies of the Service on another node are Ready, and packets
// reach them.
func anotherNodeIsIntact(proxies map[place]proxyState, than place) bool {
	intact := map[string]bool{}
	for where, p := range proxies {
		if where.service == than.service && where.node != than.node {
			before, known := intact[where.node]
			intact[where.node] = p.ready && !p.unreachable && (before || !known)
		}
	}
	return slices.Contains(slices.Collect(maps.Values(intact)), true)
}

func comparePlaces(a, b place) int {
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.node, b.node), cmp.Compare(a.set, b.set))
}
