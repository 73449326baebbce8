package gce

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// tryReportMode puts a Service in mode report and changes its ports, while the
// other Service is edited: the ports that it had stay, and no others are added,
// also after restarts. Then the Service returns to mode managed or is released.
func (s *schedule) tryReportMode() error {
	uid := types.UID("u1")
	spec, other := s.wanted[uid], types.UID("u2")
	if s.gone[uid] || len(spec.Ports) == 0 {
		uid, spec, other = other, s.wanted[other], uid
	}
	if s.gone[uid] || len(spec.Ports) == 0 {
		return nil
	}
	kept, _, err := s.firewall.desired(context.Background(), spec, nil)
	if err != nil {
		return err
	}
	s.frozen[uid], s.required = kept, traffic(kept)
	for range 1 + s.rand.IntN(3) {
		spec.Ports = s.somePorts()
		spec.Report = true
		s.wanted[uid] = spec
		if err := errors.Join(s.try(context.Background(), uid), s.editOther(other), s.checkAfterDrift()); err != nil {
			return fmt.Errorf("while %s reports: %w", uid, err)
		}
	}
	s.required = nil
	delete(s.frozen, uid)
	spec.Report = false
	if s.rand.IntN(2) == 0 {
		s.wanted[uid] = spec
		return errors.Join(s.try(context.Background(), uid), s.check())
	}
	var manual *firewall.ManualChangeError
	if err := s.firewall.Release(context.Background(), ownerOf(uid)); err != nil && !errors.As(err, &manual) {
		return err
	}
	if s.firewall.options.Layout == firewall.PerService { // An administrator deletes its rules.
		return nil
	}
	s.wanted[uid], s.gone[uid] = firewall.Spec{Owner: ownerOf(uid)}, true
	return s.checkAfterDrift()
}

// editOther edits or deletes a Service, perhaps after a restart.
func (s *schedule) editOther(uid types.UID) error {
	if _, known := s.wanted[uid]; !known {
		return nil
	}
	layout := s.firewall.options.Layout
	if s.rand.IntN(2) == 0 {
		must(s.start(s.sim.Client().Transport))
		s.firewall.options.Layout = layout
	}
	if s.rand.IntN(3) == 0 {
		return nil
	}
	spec := s.wanted[uid]
	spec.Ports = s.somePorts()
	s.wanted[uid], s.gone[uid] = spec, false
	return s.try(context.Background(), uid)
}

// checkAfterDrift checks the rules after drift, if there is any, was repaired. One
// repair must be enough.
func (s *schedule) checkAfterDrift() error {
	drifted, err := s.firewall.Drifted(context.Background())
	if err != nil {
		return err
	}
	for _, owner := range drifted {
		if err := s.try(context.Background(), owner.UID); err != nil {
			return err
		}
	}
	if drifted, err = s.firewall.Drifted(context.Background()); err != nil || len(drifted) > 0 {
		return fmt.Errorf("drifted again: %v, %w", drifted, err)
	}
	return s.check()
}
