package objects

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/provider/plan"
)

const (
	// admissionRetry is after how long a write is repeated from which admission made what was there
	// before. It changes nothing in the API server's storage, and shows whether the policy is gone.
	admissionRetry = 50 * time.Minute
	// changingRetry is the same where admission made something else, as each write may replace proxies.
	changingRetry = 24 * time.Hour
	// replyTime is how soon after our write another component's counts as a reply to it.
	replyTime = time.Minute
	// firstBackoff is the delay before the same is written a third time, and maxBackoff the longest.
	firstBackoff = time.Second
	maxBackoff   = time.Minute
	// reportedBackoff is the delay from which another component's replies are reported.
	reportedBackoff = 4 * time.Second
	// maxReported is how many differences a message names.
	maxReported = 3
)

// overrides records what others make of the objects that we write, so that these are not written at
// every sync: the API server's admission, whose changes are in its answer, and other controllers,
// which reply to our write. What users change is undone at once.
type overrides struct {
	now func() time.Time

	mu sync.Mutex
	// writes are the last ones, by the UID of the Service and the name of the object.
	writes map[types.UID]map[string]write
}

// write is a write of an object.
type write struct {
	uid types.UID
	at  time.Time
	// want identifies what was to be written, and left what the API server's answer lacked of it; empty:
	// nothing.
	want, left string
	// hold is for how long an object that lacks the same is not written again.
	hold time.Duration
	// backoff is for how long the same is not written again, as that was done just before.
	backoff time.Duration
	// message says what others changed.
	message string
}

func newOverrides() *overrides {
	return &overrides{now: time.Now, writes: map[types.UID]map[string]write{}}
}

// delay returns for how long an object with differences is not to be written.
func (o *overrides) delay(service types.UID, have, want metav1.Object, differences []plan.Difference) time.Duration {
	o.mu.Lock()
	defer o.mu.Unlock()
	last, found := o.writes[service][have.GetName()]
	if !found || last.uid != have.GetUID() {
		return 0
	}
	delay := time.Duration(0)
	if last.want == fingerprint(want) {
		delay = last.backoff
	}
	if last.left == fingerprint(differences) {
		delay = max(delay, last.hold)
	}
	return max(last.at.Add(delay).Sub(o.now()), 0)
}

// wrote records a write of an object that had differences before it, and with those left in the API
// server's answer. A policy may change created objects only, so it counts when the answer to a second
// write differs too.
func (o *overrides) wrote(service types.UID, answer, want metav1.Object, before, left []plan.Difference) {
	o.mu.Lock()
	defer o.mu.Unlock()
	next := write{uid: answer.GetUID(), at: o.now(), want: fingerprint(want)}
	last, found := o.writes[service][answer.GetName()]
	if found && last.uid != next.uid {
		last = write{}
	}
	if last.want == next.want && next.at.Sub(last.at) < last.backoff+replyTime {
		next.backoff = min(max(2*last.backoff, firstBackoff), maxBackoff)
	}
	next.message = "another component changes it back soon after each write, so it is written after delays: " + describe(before)
	if len(left) > 0 {
		next.message = "an admission policy or webhook changes what is written, and it is left so: " + describe(left)
		next.left = fingerprint(left)
	}
	switch next.left {
	case "":
	case last.left, fingerprint(before):
		next.hold = admissionRetry
	default:
		if last.left != "" {
			next.hold = changingRetry
		}
	}
	if o.writes[service] == nil {
		o.writes[service] = map[string]write{}
	}
	o.writes[service][answer.GetName()] = next
}

// isAsWanted records that an object has no differences, so the API server's admission left none.
func (o *overrides) isAsWanted(service types.UID, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if last, found := o.writes[service][name]; found {
		last.left, last.hold = "", 0
		o.writes[service][name] = last
	}
}

// messages returns what others change now, by the name of the object.
func (o *overrides) messages(service types.UID) map[string]string {
	o.mu.Lock()
	defer o.mu.Unlock()
	messages := map[string]string{}
	for name, last := range o.writes[service] {
		replied := last.backoff >= reportedBackoff && o.now().Sub(last.at) < last.backoff+replyTime
		if last.hold > 0 || replied {
			messages[name] = last.message
		}
	}
	return messages
}

// forget deletes the records of objects that are gone.
func (o *overrides) forget(service types.UID, gone func(name string) bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	maps.DeleteFunc(o.writes[service], func(name string, _ write) bool { return gone(name) })
	if len(o.writes[service]) == 0 {
		delete(o.writes, service)
	}
}

func fingerprint(value any) string {
	data, _ := json.Marshal(value) // It is made of JSON.
	sum := sha256.Sum256(data)
	return string(sum[:])
}

func describe(differences []plan.Difference) string {
	var texts []string
	for _, d := range differences[:min(len(differences), maxReported)] {
		texts = append(texts, d.String())
	}
	if more := len(differences) - maxReported; more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(texts, ", ")
}
