package options

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	v1 "k8s.io/api/core/v1"
)

// Limits of what a user writes. Kubernetes allows 256 KiB of annotations, which would be multiplied
// in DaemonSets, firewall rules and messages.
const (
	maxValueBytes     = 4 << 10
	maxSelectorValues = 100
	maxTolerations    = 50
	// maxUnknown is how many unknown annotations are reported one by one.
	maxUnknown = 5
	// maxQuoted is the number of characters of a value that a message quotes.
	maxQuoted = 80
	// maxListed is the number of values that a message lists.
	maxListed = 4
	// maxCause is the number of bytes of a library's error, which quotes values too.
	maxCause = 200
)

// MaxSourceRanges is how many source ranges an administrator may allow a Service.
const MaxSourceRanges = 5000

// Quote returns a value that a user wrote in quotes, at most its first 80 characters, for a message.
func Quote[T ~string](value T) string {
	if utf8.RuneCountInString(string(value)) <= maxQuoted {
		return strconv.Quote(string(value))
	}
	return strconv.Quote(string([]rune(value)[:maxQuoted])) + "…"
}

// Cut returns a text of at most max bytes, which is more than 50. A longer text ends in a mark with
// its length, attached to what remains, so that a command that is cut is no command.
func Cut(text string, max int) string {
	if len(text) <= max {
		return text
	}
	mark := fmt.Sprintf("…(cut: %d of %d bytes)", max, len(text))
	return strings.ToValidUTF8(text[:max-len(mark)], "") + mark
}

// List joins values, or the first of them and the number of the others, for a message.
func List(values []string) string {
	if len(values) <= maxListed {
		return strings.Join(values, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(values[:maxListed], ", "), len(values)-maxListed)
}

// cause returns a library's error for a message.
func cause(err error) string { return Cut(err.Error(), maxCause) }

// checkSelector counts what commas separate: requirements, and the values of a set.
func checkSelector(value string) error {
	if n := strings.Count(value, ",") + 1; n > maxSelectorValues {
		return fmt.Errorf("at most %d values, not %d", maxSelectorValues, n)
	}
	return nil
}

func checkTolerations(list []v1.Toleration) error {
	if len(list) > maxTolerations {
		return fmt.Errorf("at most %d tolerations, not %d", maxTolerations, len(list))
	}
	return nil
}
