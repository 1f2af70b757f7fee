package virt

import (
	"context"
	"time"

	"github.com/usance/usance/agent"
	"github.com/usance/usance/metering"
)

type facts struct{}

func (h *Hypervisor) Sample(ctx context.Context) ([]agent.Sample, error)        { return nil, nil }
func (h *Hypervisor) Domains(ctx context.Context) ([]agent.Domain, error)       { return nil, nil }
func (h *Hypervisor) Start(ctx context.Context, spec agent.Spec) error          { return nil }
func (h *Hypervisor) Delete(ctx context.Context, id metering.InstanceID) error  { return nil }
func (h *Hypervisor) Watch(ctx context.Context, f func(agent.Event)) error      { return nil }
func (h *Hypervisor) Stop(ctx context.Context, id metering.InstanceID, grace time.Duration) error {
	return nil
}
