package firewall

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestTheKindOfAnErrorIsFoundWhenItIsWrapped(t *testing.T) {
	cause := errors.New("no permission")
	forbidden := &Error{Kind: KindForbidden, Err: cause}
	for name, c := range map[string]struct {
		err              error
		kind             Kind
		forbidden, quota bool
	}{
		"no error":                {nil, "", false, false},
		"another error":           {cause, "", false, false},
		"forbidden":               {forbidden, KindForbidden, true, false},
		"wrapped":                 {fmt.Errorf("changing a rule: %w", forbidden), KindForbidden, true, false},
		"cause of manual changes": {&ManualChangeError{Cause: forbidden}, KindForbidden, true, false},
		"quota":                   {&Error{Kind: KindQuota, Err: cause}, KindQuota, false, true},
		"another kind":            {&Error{Kind: "rate limited", Err: cause}, "rate limited", false, false},
	} {
		if KindOf(c.err) != c.kind || IsForbidden(c.err) != c.forbidden || IsQuota(c.err) != c.quota {
			t.Errorf("%s: kind %q, forbidden %v, quota %v", name, KindOf(c.err), IsForbidden(c.err), IsQuota(c.err))
		}
	}
	if forbidden.Error() != cause.Error() || !errors.Is(forbidden, cause) {
		t.Errorf("%v is not %v", forbidden, cause)
	}
}

func TestModesAreOrderedByHowMuchTheyChange(t *testing.T) {
	for i, a := range Modes() {
		for j, b := range Modes() {
			if got := a.Exceeds(b); got != (i < j) {
				t.Errorf("%s exceeds %s: %v", a, b, got)
			}
		}
	}
}

func TestAManualChangeErrorNamesServiceCauseAndCommands(t *testing.T) {
	cause := errors.New("no right")
	err := &ManualChangeError{Owner: owner(), Commands: []string{"gcloud a", "gcloud b"}, Cause: cause}
	for _, part := range []string{"web/traefik", "no right", "gcloud a ; gcloud b"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q misses %q", err.Error(), part)
		}
	}
	if !errors.Is(err, cause) {
		t.Error("the cause is not wrapped")
	}
}
