package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Parse parses a Config in JSON, fills in defaults and validates it. An unknown
// field is an error: a misspelt name must not change what is allowed. The error
// names every invalid value and what to do.
func Parse(data []byte) (Config, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var c Config
	if err := decoder.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("is not valid JSON for a proxy config: %s", explain(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("is not valid JSON for a proxy config: something follows the closing brace; remove it")
	}
	for i := range c.Ports {
		if c.Ports[i].Protocol == "" {
			c.Ports[i].Protocol = "TCP"
		}
	}
	if problems := c.problems(); len(problems) > 0 {
		return Config{}, errors.New(strings.Join(problems, "; "))
	}
	return c, nil
}

// explain words an error of the JSON decoder for the author of the file.
func explain(err error) string {
	var wrongType *json.UnmarshalTypeError
	var syntax *json.SyntaxError
	switch {
	case errors.Is(err, io.EOF):
		return "it is empty; write an object with service, ports, clusterIPs, sourceRanges and drainSeconds"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends in the middle; close what is open"
	case errors.As(err, &wrongType):
		return fmt.Sprintf("field %s is a %s, want %s", wrongType.Field, wrongType.Value, wrongType.Type)
	case errors.As(err, &syntax):
		return fmt.Sprintf("at byte %d: %s", syntax.Offset, syntax)
	}
	return strings.TrimPrefix(err.Error(), "json: ") + "; known are service, ports (protocol, port), clusterIPs, sourceRanges, drainSeconds, maxConnectionsPerClient"
}

func (c Config) problems() []string {
	problems := c.portProblems()
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(c.ClusterIPs) == 0 {
		add("clusterIPs: is empty; name the Service's cluster IP (a headless Service has none and cannot be served)")
	}
	seen := map[Family]bool{}
	for i, s := range c.ClusterIPs {
		addr, err := netip.ParseAddr(s)
		switch {
		case err != nil || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast():
			add("clusterIPs[%d]: %q is not a unicast IP address; use the Service's cluster IP", i, s)
		case seen[FamilyOf(addr)]:
			add("clusterIPs[%d]: %s is a second %s address; keep one per family", i, s, FamilyOf(addr))
		default:
			seen[FamilyOf(addr)] = true
		}
	}
	for i, s := range c.SourceRanges {
		if prefix, err := netip.ParsePrefix(s); err != nil || prefix.Addr().Is4In6() {
			add("sourceRanges[%d]: %q is not a CIDR range; write it like 192.0.2.0/24 or 2001:db8::/32", i, s)
		}
	}
	if c.DrainSeconds < 0 || c.DrainSeconds > MaxDrainSeconds {
		add("drainSeconds: %d is out of range; use 0 to %d", c.DrainSeconds, MaxDrainSeconds)
	}
	if c.MaxConnectionsPerClient < 0 || c.MaxConnectionsPerClient > MaxConnections {
		add("maxConnectionsPerClient: %d is out of range; use 1 to %d, or 0 for no limit", c.MaxConnectionsPerClient, MaxConnections)
	}
	return problems
}

func (c Config) portProblems() (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if len(c.Ports) == 0 {
		add("ports: is empty; name at least one port")
	}
	seen := map[Port]bool{}
	for i, p := range c.Ports {
		if p.Protocol != "TCP" && p.Protocol != "UDP" && p.Protocol != "SCTP" {
			add("ports[%d].protocol: %q is none of TCP, UDP, SCTP; use one of these", i, p.Protocol)
		}
		if p.Port == 0 {
			add("ports[%d].port: is missing or 0; use 1 to 65535", i)
		}
		if seen[p] {
			add("ports[%d]: %s port %d is listed twice; remove one", i, p.Protocol, p.Port)
		}
		seen[p] = true
	}
	return problems
}
