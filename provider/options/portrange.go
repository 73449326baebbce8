package options

import (
	"errors"
	"strconv"
	"strings"
)

// PortRange is an inclusive range of port numbers.
type PortRange struct{ First, Last int32 }

// ParsePortRange reads "22" or "2379-2380". Its error names the valid values.
func ParsePortRange(s string) (PortRange, error) {
	from, to, isRange := strings.Cut(s, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	if err1 != nil || err2 != nil || first == 0 || first > last {
		return PortRange{}, errors.New(`a port such as "22" or a range such as "2379-2380"`)
	}
	return PortRange{int32(first), int32(last)}, nil
}

// Contains reports whether a port is in the range.
func (r PortRange) Contains(port int32) bool { return r.First <= port && port <= r.Last }
