package gcesim

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Firewall is a rule as the API returns it. Values are never changed in place.
type Firewall struct {
	Kind                  string          `json:"kind"`
	ID                    uint64          `json:"id,string"`
	CreationTimestamp     string          `json:"creationTimestamp"`
	Name                  string          `json:"name"`
	Description           string          `json:"description"`
	Network               string          `json:"network"`
	Priority              int64           `json:"priority"`
	SourceRanges          []string        `json:"sourceRanges,omitempty"`
	DestinationRanges     []string        `json:"destinationRanges,omitempty"`
	SourceTags            []string        `json:"sourceTags,omitempty"`
	TargetTags            []string        `json:"targetTags,omitempty"`
	SourceServiceAccounts []string        `json:"sourceServiceAccounts,omitempty"`
	TargetServiceAccounts []string        `json:"targetServiceAccounts,omitempty"`
	Allowed               []FirewallMatch `json:"allowed,omitempty"`
	Denied                []FirewallMatch `json:"denied,omitempty"`
	Direction             string          `json:"direction"`
	Disabled              bool            `json:"disabled"`
	LogConfig             *LogConfig      `json:"logConfig,omitempty"`
	SelfLink              string          `json:"selfLink"`
}

// FirewallMatch is a protocol with ports or ranges of ports. Without ports it matches all of them.
type FirewallMatch struct {
	IPProtocol string   `json:"IPProtocol"`
	Ports      []string `json:"ports,omitempty"`
}

// LogConfig is a rule's logging.
type LogConfig struct {
	Enable   bool   `json:"enable"`
	Metadata string `json:"metadata,omitempty"`
}

// firewallInput is a rule in a request.
type firewallInput struct {
	// Output only: accepted and ignored.
	Kind, ID, CreationTimestamp, SelfLink, Params json.RawMessage

	Name                  string
	Description           string
	Network               string
	Priority              *int64
	SourceRanges          []string
	DestinationRanges     []string
	SourceTags            []string
	TargetTags            []string
	SourceServiceAccounts []string
	TargetServiceAccounts []string
	Allowed               []FirewallMatch
	Denied                []FirewallMatch
	Direction             string
	Disabled              bool
	LogConfig             *LogConfig
}

func (s *Sim) getFirewall(c *call) (any, *apiError) {
	rule, found := s.firewalls[firewallPath(c.project, c.name)]
	if !found {
		return nil, notFound(firewallPath(c.project, c.name))
	}
	return rule, nil
}

func (s *Sim) listFirewalls(c *call) (any, *apiError) {
	var rules []Firewall
	for _, path := range slices.Sorted(maps.Keys(s.firewalls)) {
		if strings.HasPrefix(path, firewallPath(c.project, "")) {
			rules = append(rules, s.firewalls[path])
		}
	}
	return listReply(c, "compute#firewallList", "projects/"+c.project+"/global/firewalls", rules, func(f Firewall) string { return f.Name })
}

func (s *Sim) insertFirewall(c *call) (any, *apiError) {
	if op, failure := s.seen(c); op != nil || failure != nil {
		return s.replyTo(op, failure)
	}
	input, failure := decodeFirewall(c.body)
	if failure != nil {
		return nil, failure
	}
	rule, failure := s.newFirewall(c.project, input)
	if failure != nil {
		return nil, failure
	}
	path := firewallPath(c.project, rule.Name)
	if failure := s.insertable(c.project, path); failure != nil {
		return nil, failure
	}
	rule.ID, rule.CreationTimestamp = s.newID(), timestamp(s.clock.Now())
	return s.accepted(s.change(c, "insert", rule.ID, func() { s.firewalls[path] = rule })), nil
}

// insertable checks that the name is free and the quota is not exceeded. Rules that are being
// created count.
func (s *Sim) insertable(project, path string) *apiError {
	_, exists := s.firewalls[path]
	busy := s.busy[path]
	switch {
	case busy != nil && busy.operationType == "delete":
		return notReady(path)
	case exists || busy != nil:
		return alreadyExists(path)
	}
	used := 0
	for other := range s.firewalls {
		if strings.HasPrefix(other, firewallPath(project, "")) {
			used++
		}
	}
	for _, op := range s.busy {
		if op.operationType == "insert" && op.project == project {
			used++
		}
	}
	if limit := *s.settings.FirewallQuota; used >= limit {
		return quotaExceeded(limit)
	}
	return nil
}

func (s *Sim) patchFirewall(c *call) (any, *apiError) {
	return s.modify(c, "patch", func(old Firewall) (firewallInput, *apiError) {
		if _, failure := decodeFirewall(c.body); failure != nil {
			return firewallInput{}, failure
		}
		merged, err := mergePatch(old, c.body)
		if err != nil {
			return firewallInput{}, badRequest("Invalid JSON payload received. %v", err)
		}
		return decodeFirewall(merged)
	})
}

func (s *Sim) updateFirewall(c *call) (any, *apiError) {
	return s.modify(c, "update", func(old Firewall) (firewallInput, *apiError) {
		input, failure := decodeFirewall(c.body)
		input.Name = orElse(input.Name, old.Name)
		input.Network = orElse(input.Network, old.Network)
		return input, failure
	})
}

// modify starts a change of an existing rule.
func (s *Sim) modify(c *call, operationType string, edit func(Firewall) (firewallInput, *apiError)) (any, *apiError) {
	if op, failure := s.seen(c); op != nil || failure != nil {
		return s.replyTo(op, failure)
	}
	path := firewallPath(c.project, c.name)
	old, failure := s.changeable(path)
	if failure != nil {
		return nil, failure
	}
	input, failure := edit(old)
	if failure != nil {
		return nil, failure
	}
	rule, failure := s.newFirewall(c.project, input)
	if failure == nil {
		failure = checkUnchangeable(old, rule)
	}
	if failure != nil {
		return nil, failure
	}
	rule.ID, rule.CreationTimestamp = old.ID, old.CreationTimestamp
	return s.accepted(s.change(c, operationType, rule.ID, func() { s.firewalls[path] = rule })), nil
}

func (s *Sim) deleteFirewall(c *call) (any, *apiError) {
	if op, failure := s.seen(c); op != nil || failure != nil {
		return s.replyTo(op, failure)
	}
	path := firewallPath(c.project, c.name)
	old, failure := s.changeable(path)
	if failure != nil {
		return nil, failure
	}
	return s.accepted(s.change(c, "delete", old.ID, func() { delete(s.firewalls, path) })), nil
}

// changeable returns a rule that no other operation is changing.
func (s *Sim) changeable(path string) (Firewall, *apiError) {
	rule, found := s.firewalls[path]
	if s.busy[path] != nil {
		return rule, notReady(path)
	}
	if !found {
		return rule, notFound(path)
	}
	return rule, nil
}

func (s *Sim) replyTo(op *operation, failure *apiError) (any, *apiError) {
	if failure != nil {
		return nil, failure
	}
	return op.reply(s.clock.Now()), nil
}

// mergePatch applies a JSON merge patch (RFC 7396) to v.
func mergePatch(v any, patch []byte) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var whole, changes map[string]any
	if err := json.Unmarshal(data, &whole); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(patch, &changes); err != nil {
		return nil, err
	}
	return json.Marshal(merge(whole, changes))
}

func merge(whole, changes map[string]any) map[string]any {
	for key, value := range changes {
		below, isObject := value.(map[string]any)
		switch {
		case value == nil:
			delete(whole, key)
		case isObject:
			inner, _ := whole[key].(map[string]any)
			whole[key] = merge(orEmpty(inner), below)
		default:
			whole[key] = value
		}
	}
	return whole
}

func orEmpty(m map[string]any) map[string]any {
	if m == nil {
		return map[string]any{}
	}
	return m
}

func firewallPath(project, name string) string {
	return "projects/" + project + "/global/firewalls/" + name
}
