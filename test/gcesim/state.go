package gcesim

import (
	"fmt"
	"maps"
	"slices"
)

// Snapshot is the state at one moment. It is never changed.
type Snapshot struct {
	// NetworkProject holds the rules.
	NetworkProject string `json:"networkProject"`
	// Network is the network of instances without one of their own.
	Network   string     `json:"network"`
	Firewalls []Firewall `json:"firewalls"`
	Instances []Instance `json:"instances"`
}

// Snapshot returns the current state.
func (s *Sim) Snapshot() Snapshot {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot()
}

// snapshot must be called with mu held. Rules and instances are replaced, never changed in place,
// so that snapshots can share them.
func (s *Sim) snapshot() Snapshot {
	snapshot := Snapshot{
		NetworkProject: s.config.NetworkProject, Network: s.config.Network,
		Firewalls: []Firewall{}, Instances: slices.Clone(s.instances),
	}
	for _, path := range slices.Sorted(maps.Keys(s.firewalls)) {
		snapshot.Firewalls = append(snapshot.Firewalls, s.firewalls[path])
	}
	return snapshot
}

// PutInstance adds an instance, or replaces the one of its zone and name.
func (s *Sim) PutInstance(instance Instance) error {
	instance = instance.withDefaults(s.config.Network)
	if err := instance.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instances = append(s.without(instance.Zone, instance.Name), instance)
	s.onChange(s.snapshot())
	return nil
}

// UpdateInstance changes an existing instance. change must not keep the pointer, and must replace
// slices instead of their elements.
func (s *Sim) UpdateInstance(zone, name string, change func(*Instance)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.indexOf(zone, name)
	if at < 0 {
		return fmt.Errorf("there is no instance %s in zone %s", name, zone)
	}
	updated := s.instances[at]
	change(&updated)
	if err := updated.validate(); err != nil {
		return err
	}
	s.instances = slices.Clone(s.instances)
	s.instances[at] = updated
	s.onChange(s.snapshot())
	return nil
}

// RemoveInstance deletes an instance.
func (s *Sim) RemoveInstance(zone, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.indexOf(zone, name) < 0 {
		return fmt.Errorf("there is no instance %s in zone %s", name, zone)
	}
	s.instances = s.without(zone, name)
	s.onChange(s.snapshot())
	return nil
}

func (s *Sim) indexOf(zone, name string) int {
	return slices.IndexFunc(s.instances, func(in Instance) bool { return in.Zone == zone && in.Name == name })
}

func (s *Sim) without(zone, name string) []Instance {
	return slices.DeleteFunc(slices.Clone(s.instances), func(in Instance) bool { return in.Zone == zone && in.Name == name })
}

// Settings returns the current settings.
func (s *Sim) Settings() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Set changes the settings that are not nil.
func (s *Sim) Set(settings Settings) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settings = s.settings.with(settings)
}

// AddFault injects a fault.
func (s *Sim) AddFault(fault Fault) error {
	if err := fault.validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &fault)
	return nil
}

// Faults returns the current faults.
func (s *Sim) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults := []Fault{}
	for _, f := range s.faults {
		faults = append(faults, *f)
	}
	return faults
}

// ClearFaults removes all faults.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Requests returns the requests since the last ForgetRequests, oldest first. If there are more than
// maxRequests, the oldest are missing.
func (s *Sim) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request{}, s.requests...)
}

// ForgetRequests empties the log.
func (s *Sim) ForgetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = nil
}
