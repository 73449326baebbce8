package gce

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/hostport-ccm/hostport-ccm/firewall"
)

// reportForAWhile puts a Service in mode report, changes what it wants, and lets
// the other one live on: what was open for the first one stays and nothing
// else does, over restarts too. Then it goes back, or goes altogether.
func (s *schedule) reportForAWhile() error {
	uid := types.UID("u1")
	spec, other := s.wanted[uid], types.UID("u2")
	if s.gone[uid] || len(spec.Ports) == 0 {
		uid, spec, other = other, s.wanted[other], uid
	}
	if s.gone[uid] || len(spec.Ports) == 0 {
		return nil
	}
	had, err := s.firewall.desired(context.Background(), spec)
	if err != nil {
		return err
	}
	s.frozen[uid], s.mustStay = had, letIn(had)
	for range 1 + s.rand.IntN(3) {
		spec.Ports = s.somePorts()
		spec.Report = true
		s.wanted[uid] = spec
		if err := errors.Join(s.try(context.Background(), uid), s.live(other), s.checkAfterALook()); err != nil {
			return fmt.Errorf("while %s reports: %w", uid, err)
		}
	}
	s.mustStay = nil
	delete(s.frozen, uid)
	spec.Report = false
	if s.rand.IntN(2) == 0 {
		s.wanted[uid] = spec
		return errors.Join(s.try(context.Background(), uid), s.check())
	}
	var byHand *firewall.ByHandError
	if err := s.firewall.Abandon(context.Background(), ownerOf(uid)); err != nil && !errors.As(err, &byHand) {
		return err
	}
	if s.firewall.Layout == firewall.PerService { // Its own rules are for somebody else to delete.
		return nil
	}
	s.wanted[uid], s.gone[uid] = firewall.Spec{Owner: ownerOf(uid)}, true
	return s.checkAfterALook()
}

// live has a Service edited or deleted, perhaps by a new process.
func (s *schedule) live(uid types.UID) error {
	if _, known := s.wanted[uid]; !known {
		return nil
	}
	layout := s.firewall.Layout
	if s.rand.IntN(2) == 0 {
		must(s.start(s.sim.Client().Transport))
		s.firewall.Layout = layout
	}
	if s.rand.IntN(3) == 0 {
		return nil
	}
	spec := s.wanted[uid]
	spec.Ports = s.somePorts()
	s.wanted[uid], s.gone[uid] = spec, false
	return s.try(context.Background(), uid)
}

// checkAfterALook checks once the drift, if there is any, was put right, which
// it has to be at once.
func (s *schedule) checkAfterALook() error {
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
