package proxies

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/hostport-ccm/hostport-ccm/provider/options"
)

// NotCreatedError explains why proxies of a Service are not created.
type NotCreatedError struct{ message, cause string }

// Error says what is not created, why, what follows, and what to do.
func (e *NotCreatedError) Error() string { return e.message }

// Key is the same for errors that differ in numbers only, such as what a quota has left.
func (e *NotCreatedError) Key() string { return digits.ReplaceAllString(e.cause, "") }

var digits = regexp.MustCompile(`\d+`)

// maxWords is how many bytes of the API server's words are quoted. It leaves room for the rest of the
// message within the limit of events.
const maxWords = 512

// refusedError returns the error about what the API server refuses with these words.
func refusedError(what, words, consequence string) *NotCreatedError {
	return &NotCreatedError{cause: words, message: fmt.Sprintf(
		"the API server refuses %s: %s; %s; correct the Service, or the policy, limit or quota in question, which is tried again every two minutes or sooner",
		what, options.Cut(words, maxWords), consequence)}
}

// refusal returns the API server's words if err says that admission or validation refuses an object.
// There are none if the API server could not decide, if we lack the right to ask, or if a webhook
// cannot be asked by a dry run.
func refusal(err error) (words string, refused bool) {
	var reply apierrors.APIStatus
	if !errors.As(err, &reply) {
		return "", false
	}
	words = strings.Join(strings.Fields(reply.Status().Message), " ")
	switch code := int(reply.Status().Code); {
	case strings.Contains(words, `forbidden: User "`), strings.Contains(words, "does not support dry run"):
		return "", false
	case code == http.StatusInternalServerError:
		// The webhook is down, and its failurePolicy is Fail.
		return words, strings.Contains(words, "failed calling webhook")
	default:
		return words, code >= 400 && code < 500 && !slices.Contains([]int{
			http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusTooManyRequests,
		}, code)
	}
}

// exceeded matches the words of an exceeded quota: see
// k8s.io/apiserver/pkg/admission/plugin/resourcequota.
var exceeded = regexp.MustCompile(`exceeded quota: .*, used: (\S+), limited: (\S+)$`)

// fitsAfterReplacing reports whether a quota refuses a pod only because the pod that it replaces
// still counts.
func fitsAfterReplacing(words string, before, after v1.PodSpec) bool {
	match := exceeded.FindStringSubmatch(words)
	if match == nil || !costSame(before, after) {
		return false
	}
	used, limited := quantities(match[1]), quantities(match[2])
	for name, limit := range limited {
		if use, found := used[name]; !found || use.Cmp(limit) > 0 {
			return false
		}
	}
	return len(limited) > 0
}

// costSame reports whether two pods count the same in all quotas.
func costSame(a, b v1.PodSpec) bool {
	first, second, all := &v1.Pod{Spec: a}, &v1.Pod{Spec: b}, resourcehelper.PodResourcesOptions{}
	return a.PriorityClassName == b.PriorityClassName &&
		equality.Semantic.DeepEqual(resourcehelper.PodRequests(first, all), resourcehelper.PodRequests(second, all)) &&
		equality.Semantic.DeepEqual(resourcehelper.PodLimits(first, all), resourcehelper.PodLimits(second, all))
}

// quantities parses a list such as "cpu=1,pods=3". It leaves out what it does not understand.
func quantities(list string) map[string]resource.Quantity {
	parsed := map[string]resource.Quantity{}
	for entry := range strings.SplitSeq(list, ",") {
		name, value, _ := strings.Cut(entry, "=")
		if q, err := resource.ParseQuantity(value); err == nil {
			parsed[name] = q
		}
	}
	return parsed
}
