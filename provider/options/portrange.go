package options

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// PortRange is an inclusive range of port numbers.
type PortRange struct {
	First, Last int32
	// Protocol is empty for all protocols.
	Protocol v1.Protocol
}

// ParsePortRange reads "53", "8472/UDP" or "10248-10260/TCP". Its error names the valid values.
func ParsePortRange(s string) (PortRange, error) {
	numbers, protocol, hasProtocol := strings.Cut(s, "/")
	from, to, isRange := strings.Cut(numbers, "-")
	if !isRange {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	err3 := oneOf(v1.Protocol(protocol), v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP)
	if err1 != nil || err2 != nil || first == 0 || first > last || hasProtocol && err3 != nil {
		return PortRange{}, errors.New(`a port such as "53" or "8472/UDP", or a range such as "2379-2380/TCP"`)
	}
	return PortRange{int32(first), int32(last), v1.Protocol(protocol)}, nil
}

// Contains reports whether a port is in the range.
func (r PortRange) Contains(protocol v1.Protocol, port int32) bool {
	return r.First <= port && port <= r.Last && (r.Protocol == "" || r.Protocol == protocol)
}

// PortRanges is a set of ports.
type PortRanges []PortRange

// Contains reports whether a port is in one of the ranges.
func (list PortRanges) Contains(protocol v1.Protocol, port int32) bool {
	return slices.ContainsFunc(list, func(r PortRange) bool { return r.Contains(protocol, port) })
}
