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

// Parse reads a Config from JSON, fills in defaults and validates it. A field it
// does not know is an error, so that a typo does not silently open or close
// something.
func Parse(data []byte) (Config, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var c Config
	if err := decoder.Decode(&c); err != nil {
		return Config{}, fmt.Errorf("is no valid JSON for a proxy config: %s", explain(err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Config{}, errors.New("is no valid JSON for a proxy config: something follows the closing brace; remove it")
	}
	c.setDefaults()
	if err := c.Validate(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// explain says in the reader's words what the JSON decoder did not like.
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
	return strings.TrimPrefix(err.Error(), "json: ") + "; known are service, ports (protocol, port), clusterIPs, sourceRanges, drainSeconds"
}

func (c *Config) setDefaults() {
	for i := range c.Ports {
		if c.Ports[i].Protocol == "" {
			c.Ports[i].Protocol = "TCP"
		}
	}
}

// Validate returns one error that names every wrong field and what to do about
// it, or nil.
func (c Config) Validate() error {
	var problems []string
	add := func(field, format string, args ...any) {
		problems = append(problems, field+": "+fmt.Sprintf(format, args...))
	}
	c.validatePorts(add)
	c.validateClusterIPs(add)
	c.validateSourceRanges(add)
	if c.DrainSeconds < 0 || c.DrainSeconds > MaxDrainSeconds {
		add("drainSeconds", "%d is out of range; use 0 to %d", c.DrainSeconds, MaxDrainSeconds)
	}
	if len(problems) == 0 {
		return nil
	}
	return errors.New(strings.Join(problems, "; "))
}

type addProblem func(field, format string, args ...any)

func (c Config) validatePorts(add addProblem) {
	if len(c.Ports) == 0 {
		add("ports", "is empty; name at least one port")
	}
	seen := map[Port]bool{}
	for i, p := range c.Ports {
		field := fmt.Sprintf("ports[%d]", i)
		if p.Protocol != "TCP" && p.Protocol != "UDP" && p.Protocol != "SCTP" {
			add(field+".protocol", "%q is none of TCP, UDP, SCTP; use one of these", p.Protocol)
		}
		if p.Port == 0 {
			add(field+".port", "is missing or 0; use 1 to 65535")
		}
		if seen[p] {
			add(field, "%s port %d is listed twice; remove one", p.Protocol, p.Port)
		}
		seen[p] = true
	}
}

func (c Config) validateClusterIPs(add addProblem) {
	if len(c.ClusterIPs) == 0 {
		add("clusterIPs", "is empty; name the Service's cluster IP (a headless Service has none and cannot be served)")
	}
	seen := map[Family]bool{}
	for i, s := range c.ClusterIPs {
		field := fmt.Sprintf("clusterIPs[%d]", i)
		addr, err := netip.ParseAddr(s)
		switch {
		case err != nil || addr.Zone() != "" || addr.Is4In6() || !addr.IsGlobalUnicast():
			add(field, "%q is no unicast IP address; use the Service's cluster IP", s)
		case seen[FamilyOf(addr)]:
			add(field, "%s is a second %s address; keep one per family", s, FamilyOf(addr))
		default:
			seen[FamilyOf(addr)] = true
		}
	}
}

func (c Config) validateSourceRanges(add addProblem) {
	for i, s := range c.SourceRanges {
		prefix, err := netip.ParsePrefix(s)
		if err != nil || prefix.Addr().Is4In6() {
			add(fmt.Sprintf("sourceRanges[%d]", i), "%q is no CIDR range; write it like 192.0.2.0/24 or 2001:db8::/32", s)
		}
	}
}
