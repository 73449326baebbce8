package firewall

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies the failure of a firewall's API. Kinds other than those below
// only distinguish failures from one another.
type Kind string

// The kinds that callers act on.
const (
	// KindForbidden is a missing permission. Retrying soon is of no use.
	KindForbidden Kind = "forbidden"
	// KindQuota is a quota of the project that is used up.
	KindQuota Kind = "quota exceeded"
)

// Error is a failure of a firewall's API. Its message is that of Err.
type Error struct {
	Kind Kind
	Err  error
}

// Error returns the message of the wrapped error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the wrapped error.
func (e *Error) Unwrap() error { return e.Err }

// KindOf returns the kind of the *Error that err is or wraps, "" if there is
// none.
func KindOf(err error) Kind {
	var e *Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.Kind
}

// IsForbidden reports whether a permission is missing.
func IsForbidden(err error) bool { return KindOf(err) == KindForbidden }

// IsQuota reports whether a quota is used up.
func IsQuota(err error) bool { return KindOf(err) == KindQuota }

// ManualChangeError is returned when the firewall differs from what is wanted
// and an administrator has to change it.
type ManualChangeError struct {
	Owner Owner
	// Commands make the changes, in this order. Each is a complete shell command.
	Commands []string
	// Cause is the refusal of the API; nil in mode report.
	Cause error
}

// Error names the Service, the cause and the commands.
func (e *ManualChangeError) Error() string {
	cause := ""
	if e.Cause != nil {
		cause = fmt.Sprintf(" (%v)", e.Cause)
	}
	return fmt.Sprintf("firewall change required by an administrator for Service %s%s: %s", e.Owner.Service, cause, strings.Join(e.Commands, " ; "))
}

// Unwrap returns the cause.
func (e *ManualChangeError) Unwrap() error { return e.Cause }

// NotOursError is returned when a rule of a wanted name exists without our
// mark. The rule is left unchanged.
type NotOursError struct {
	Rule  string
	Owner Owner
	// Mark is the description that our rule would have. Empty: that of Owner.
	Mark string
}

// Error names the rule, the cause and the remedies.
func (e *NotOursError) Error() string {
	mark := e.Mark
	if mark == "" {
		mark = FormatMark(e.Owner)
	}
	return fmt.Sprintf("firewall rule %s, wanted for Service %s, exists already and does not carry our mark, so it is left as it is: "+
		"delete or rename it (gcloud compute firewall-rules delete %s), or give it back its description %s",
		e.Rule, e.Owner.Service, e.Rule, mark)
}
