package chaos

import (
	"slices"
	"time"
)

// Target is an address of a Service with a port and protocol, to which one client sends requests one
// after the other.
type Target struct{ Service, Address, Protocol string }

// Attempt is a request that began at a time.
type Attempt struct {
	From time.Time
	// Err is nil if it was answered.
	Err error
	// Refused is true if something said no, false if nothing answered: then the machine may be slow.
	Refused bool
}

// Change is a change of a Service's published addresses, with the time at which a client could know.
type Change struct {
	At        time.Time
	Addresses []string
}

// Outage is a period in which requests to a published address failed.
type Outage struct {
	Target
	// From is the begin of the first request that failed and began while the address was published. To
	// is the begin of the next one that was answered, or the time at which the address was withdrawn if
	// that was earlier.
	From, To time.Time
	// Requests is how many requests failed that began while the address was published.
	Requests int
	// Refused is true if any of them was.
	Refused bool
	// Err is the error of the first.
	Err error
}

// Duration returns how long the outage lasted.
func (o Outage) Duration() time.Duration { return o.To.Sub(o.From) }

// Outages returns the outages of a target, in order. Attempts are in order of their begin, changes in
// that of their time. A request that fails counts if its address was published when it began. end is
// the end of the test.
func Outages(target Target, attempts []Attempt, changes []Change, end time.Time) []Outage {
	var all []Outage
	for i := 0; i < len(attempts); i++ {
		if attempts[i].Err == nil {
			continue
		}
		failed := attempts[i:]
		if next := slices.IndexFunc(failed, func(a Attempt) bool { return a.Err == nil }); next >= 0 {
			failed = failed[:next]
		}
		i += len(failed)
		until := end
		if i < len(attempts) {
			until = attempts[i].From
		}
		for _, p := range published(target.Address, changes, end) {
			if o, found := outage(target, failed, until, p); found {
				all = append(all, o)
			}
		}
	}
	return all
}

// period is a time in which an address is published.
type period struct{ from, to time.Time }

// published returns the periods in which an address is published.
func published(address string, changes []Change, end time.Time) []period {
	var all []period
	open := false
	for _, c := range changes {
		is := slices.Contains(c.Addresses, address)
		if is && !open {
			all = append(all, period{c.At, end})
		} else if !is && open {
			all[len(all)-1].to = c.At
		}
		open = is
	}
	return all
}

// outage returns the part of consecutive failed requests, the next answered one of which began at
// until, that lies in a period in which the address was published.
func outage(target Target, failed []Attempt, until time.Time, p period) (o Outage, found bool) {
	o = Outage{Target: target, To: until}
	if p.to.Before(until) {
		o.To = p.to
	}
	for _, a := range failed {
		if a.From.Before(p.from) || a.From.After(p.to) {
			continue
		}
		if o.Requests == 0 {
			o.From, o.Err = a.From, a.Err
		}
		o.Requests++
		o.Refused = o.Refused || a.Refused
	}
	return o, o.Requests > 0
}

// EpisodeOf returns the index of the episode in which an outage began; -1 if there is none.
func EpisodeOf(o Outage, episodes []Episode) int {
	i, found := slices.BinarySearchFunc(episodes, o.From, func(e Episode, at time.Time) int { return e.From.Compare(at) })
	if !found {
		i--
	}
	if i < 0 || o.From.After(episodes[i].To) {
		return -1
	}
	return i
}
